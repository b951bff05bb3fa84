#include "planners/local_search/stage_annealing.h"

#include <algorithm>
#include <cmath>

#include "border/checks.h"
#include "border/owned.h"
#include "cost/memory.h"
#include "random.h"

namespace drlpp {

namespace {

// The energy is the sum of the 16th powers of the slots' loads.
constexpr double POWER = 16.0;
// Factor on the load of a slot per part of its memory that it exceeds.
constexpr double MEMORY_PENALTY = 20.0;
// Where any op may be in any slot: part of the moves that go to the slot of a neighbour.
constexpr double TO_NEIGHBOUR = 0.8;

double power_16(double x) {
  x *= x;
  x *= x;
  x *= x;
  return x * x;
}

// What the ops in the slots add up to.
class SlotLoads {
 public:
  SlotLoads(const OpAmounts& ops, const Slots& slots, Ints labels)
      : ops_(ops),
        slots_(slots),
        labels_(std::move(labels)),
        load_(slots.size(), 0.0),
        params_(slots.size(), 0.0),
        fixed_(slots.size(), 0.0),
        held_(slots.size(), 0.0),
        messages_(slots.size(), slots.size(), 0),
        stamp_(slots.size(), 0) {
    for (Int op = 0; op < ops.num_ops(); ++op) add_op(op, labels_[op], 1);
    for (Int v = 0; v < ops.num_values(); ++v) add_value(v, 1);
    for (Int s = 0; s < slots.size(); ++s) {
      scale_ = std::max(scale_, load_[s] + slots.sync_s_per_byte[s] * params_[s]);
    }
  }

  const Ints& labels() const { return labels_; }
  double scale_s() const { return scale_; }

  void move(Int op, Int slot) {
    for (const Int v : ops_.touched(op)) add_value(v, -1);
    add_op(op, labels_[op], -1);
    labels_[op] = slot;
    add_op(op, slot, 1);
    for (const Int v : ops_.touched(op)) add_value(v, 1);
  }

  // 16th power of a slot's load, relative to the scale. Parameters below `least_bytes` are rounding errors.
  double power(Int s, double least_bytes = 0.0) const {
    const double params = params_[s] > least_bytes ? params_[s] : 0.0;
    double load = load_[s];
    if (params > 0) load += slots_.sync_s[s] + slots_.sync_s_per_byte[s] * params;
    const double resident = resident_bytes(params, slots_.resident_factor[s], fixed_[s]);
    const double excess = resident + held_[s] * slots_.in_flight[s] - slots_.memory_bytes[s];
    if (excess > 0) load *= 1.0 + MEMORY_PENALTY * excess / slots_.memory_bytes[s];
    return power_16(load / scale_);
  }

 private:
  void add_op(Int op, Int slot, double sign) {
    load_[slot] += sign * slots_.op_s[slot][op];
    params_[slot] += sign * ops_.param_bytes[op];
    fixed_[slot] += sign * ops_.fixed_bytes[op];
    held_[slot] += sign * ops_.saved_bytes[op];
  }

  // Adds value v to the loads of the slots that send and receive it, or takes it away (sign -1).
  void add_value(Int v, Int sign) {
    const Int from = labels_[ops_.value_src[v]];
    const double amount = sign * ops_.value_amount[v];
    stamp_[from] = ++counter_;
    bool is_sent = false;
    for (const Int op : ops_.consumers(v)) {
      const Int to = labels_[op];
      if (stamp_[to] == counter_) continue;
      stamp_[to] = counter_;
      load_[to] += amount * slots_.receive[from][to];
      if (ops_.timed) {
        if (!is_sent) load_[from] += amount;
      } else {
        load_[from] += amount * slots_.send[from][to];
        held_[to] += amount / ops_.value_copies[v];
        count_message(v, from, to, sign);
      }
      is_sent = true;
    }
  }

  // One latency for all messages from one slot to another.
  void count_message(Int v, Int from, Int to, Int sign) {
    const Int before = messages_[from][to];
    messages_[from][to] += sign;
    if (before != 0 && messages_[from][to] != 0) return;
    const double latency = sign * ops_.value_copies[v] * slots_.latency[from][to];
    load_[from] += latency;
    load_[to] += latency;
  }

  const OpAmounts& ops_;
  const Slots& slots_;
  Ints labels_;
  // [L] seconds, bytes of trained parameters, resident bytes of what is frozen, bytes kept per micro-batch
  Reals load_, params_, fixed_, held_;
  OwnedTable<Int> messages_;    // [L, L] values that go from one slot to another
  Ints stamp_;                  // [L] last value that was counted for the slot
  Int counter_ = 0;
  double scale_ = 1e-300;
};

class StageSearch {
 public:
  StageSearch(const OpAmounts& ops, const Slots& slots, Ints labels, const Cooling& cooling,
              const StageRules& rules)
      : ops_(ops),
        cooling_(cooling),
        is_free_(rules.free),
        random_(cooling.seed),
        loads_(ops, slots, std::move(labels)),
        power_(slots.size()),
        mark_(slots.size(), -1) {
    for (Int s = 0; s < slots.size(); ++s) {
      power_[s] = loads_.power(s);
      energy_ += power_[s];
    }
    best_energy_ = energy_;
    best_ = loads_.labels();
  }

  AnnealedLabels run() {
    for (Int move = 0; move < cooling_.moves; ++move) {
      const Int op = random_.below(ops_.num_ops()), slot = draw_slot(op);
      if (slot < 0 || slot == loads_.labels()[op]) continue;
      try_move(move, op, slot);
    }
    return {std::move(best_), loads_.scale_s() * std::pow(best_energy_, 1.0 / POWER)};
  }

 private:
  // A slot that the op may be in; -1: it cannot leave its own.
  Int draw_slot(Int op) {
    const Ints& labels = loads_.labels();
    const auto before = ops_.predecessors(op), after = ops_.successors(op);
    Int low = 0, high = size_of(power_) - 1;
    if (!is_free_) {
      for (const Int i : before) low = std::max(low, labels[i]);
      for (const Int i : after) high = std::min(high, labels[i]);
    }
    if (low >= high) return -1;
    if (!is_free_ || !(random_.unit() < TO_NEIGHBOUR)) return low + random_.below(high - low + 1);
    const Int degree = before.size() + after.size();
    if (degree == 0) return -1;
    const Int k = random_.below(degree);
    return labels[k < before.size() ? before[k] : after[k - before.size()]];
  }

  // The slots that a move changes: both ends, and those at the other ends of the op's values.
  void find_changed(Int move, Int op, Int slot) {
    const Ints& labels = loads_.labels();
    changed_.clear();
    const auto add = [&](Int s) {
      if (mark_[s] == move) return;
      mark_[s] = move;
      changed_.push_back(s);
    };
    add(labels[op]);
    add(slot);
    for (const Int v : ops_.touched(op)) {
      add(labels[ops_.value_src[v]]);
      if (ops_.value_src[v] != op) continue;
      for (const Int consumer : ops_.consumers(v)) add(labels[consumer]);
    }
  }

  void try_move(Int move, Int op, Int slot) {
    const Int old = loads_.labels()[op];
    find_changed(move, op, slot);
    loads_.move(op, slot);
    double change = 0.0;
    for (const Int s : changed_) change += loads_.power(s, LEAST_BYTES) - power_[s];
    if (!is_accepted(move, std::max(energy_ + change, 1e-300))) {
      loads_.move(op, old);
      return;
    }
    for (const Int s : changed_) power_[s] = loads_.power(s, LEAST_BYTES);
    energy_ = 0.0;
    for (const double power : power_) energy_ += power;
    if (energy_ < best_energy_) {
      best_energy_ = energy_;
      best_ = loads_.labels();
    }
  }

  bool is_accepted(Int move, double proposed) {
    if (proposed <= energy_) return true;
    const double temperature = cooling_.temperature(move);
    return random_.unit() < std::exp(-(std::log(proposed) - std::log(energy_)) / (POWER * temperature));
  }

  // Parameters are whole bytes: what a move leaves below this is a rounding error.
  static constexpr double LEAST_BYTES = 0.5;

  const OpAmounts& ops_;
  const Cooling& cooling_;
  const bool is_free_;
  RandomStream random_;
  SlotLoads loads_;
  Reals power_;  // [L] 16th powers of the loads
  double energy_ = 0.0, best_energy_ = 0.0;
  Ints best_;
  Ints mark_, changed_;
};

}  // namespace

double Cooling::temperature(Int move) const {
  return hot * std::pow(cold / hot, static_cast<double>(move) / static_cast<double>(moves));
}

void Slots::check() const {
  for (const auto& table : {send, receive, latency}) {
    check_length("rows of send, receive and latency", table.rows, size());
    check_length("columns of send, receive and latency", table.columns, size());
  }
  for (const auto& column : {sync_s, sync_s_per_byte, memory_bytes, in_flight, resident_factor}) {
    check_length("a column of the slots", column.size(), size());
  }
}

AnnealedLabels anneal_stages(const OpAmounts& ops, const Slots& slots, Ints labels,
                             const Cooling& cooling, const StageRules& rules) {
  check_length("labels", size_of(labels), ops.num_ops());
  check_length("columns of op_s", slots.op_s.columns, ops.num_ops());
  check_range("labels", labels, 0, slots.size());
  return StageSearch(ops, slots, std::move(labels), cooling, rules).run();
}

}  // namespace drlpp
