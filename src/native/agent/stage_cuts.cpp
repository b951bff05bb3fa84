#include "agent/stage_cuts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "border/checks.h"

namespace drlpp {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Penalty, over the compute time, where not even one micro-batch fits the memory.
constexpr double OVERFLOW_PENALTY = 20.0;
// Weight of the pace in the steady state, over the passes.
constexpr double STEADY_WEIGHT = 1000.0;
// Messages that a stage has buffers for (see `schedule_memory.h`): gradients that it returned, and those received for
// its next actions. These are gradients; or, before the pipeline drains, a value in the place of one of three.
constexpr double RETURNED = 2.0, AHEAD = 2.0;
// Part of a pass that is the backward one.
constexpr double BACKWARD = 2.0 / 3.0;
// Gain of recomputation where only one of the two ways fits the memory.
constexpr double SURE_GAIN = 9.0;
constexpr double TINY = 1e-30;

// The largest whole number that is at most x / y, for y above 0, as Python's `//` rounds it.
double floor_divide(double x, double y) {
  double rest = std::fmod(x, y), quotient = (x - rest) / y;
  if (rest != 0.0 && rest < 0.0) quotient -= 1.0;
  if (quotient == 0.0) return std::copysign(0.0, x / y);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1.0 : floor;
}

// A replica whose memory bounds the micro-batches in flight.
struct Replica {
  double rounds;        // micro-batches of a step
  double in_flight;     // micro-batches that 1F1B has in flight
  double scarce_bytes;  // that a list schedule keeps free beside them
};

// Seconds of the rounds after the first, with room for so many bytes of micro-batches in flight; inf: for none.
//
// Where there is room for fewer than 1F1B has, a list schedule is left. It keeps more memory free, but always lets one
// micro-batch in.
double cycle_s(const Replica& replica, double compute_s, double round_trip_s, double room, double bytes_of_each) {
  if (room < bytes_of_each) return infinity;
  double places = room >= bytes_of_each * replica.in_flight ? replica.in_flight : 1.0;
  if (room >= replica.scarce_bytes) {
    const double more = bytes_of_each > 0.0 ? floor_divide(room - replica.scarce_bytes, bytes_of_each) : infinity;
    places = std::max(places, more);
  }
  return std::max(compute_s * (replica.rounds - 1.0), round_trip_s * (replica.rounds / places - 1.0));
}

double clipped(double x, double low, double high) { return std::min(std::max(x, low), high); }

}  // namespace

// Seconds of a stage's rounds without and with recomputation; inf if its memory does not suffice.
struct Episode::Cycles {
  double keep_s, redo_s;
};

void SlotArrays::check() const {
  for (const auto& table : {rounds, memory_bytes, spared, besides_s, reduce_s, reduce_s_per_byte, in_flight, into_s,
                            port_into_s, mean_into_s, latency_s, out_s, port_out_s}) {
    check_length("rows of the slots", table.rows, num_episodes());
    check_length("columns of the slots", table.columns, width());
  }
  check_range("num_slots", num_slots, 1, width() + 1);
}

void check_sums(const Prefixes& sums, const SlotArrays& slots) {
  const auto& [orders, time, forward, weights, resident, saved, params, crossing, into, out] = sums;
  const Int num_ops = sums.num_ops();
  check_length("rows of orders", orders.rows, slots.num_episodes());
  check_length("crossing", crossing.size(), slots.num_episodes());
  check_range("crossing", crossing, 0, into.planes);
  check_length("planes of out", out.planes, into.planes);
  for (const auto& cube : {time, forward, weights, resident, saved}) {
    check_length("planes of the sums", cube.planes, slots.num_episodes());
    check_length("rows of the sums", cube.rows, slots.width());
    check_length("columns of the sums", cube.columns, num_ops + 1);
  }
  check_length("rows of the sums", params.rows, slots.num_episodes());
  check_length("columns of the sums", params.columns, num_ops + 1);
  for (const auto& cube : {into, out}) {
    check_length("rows of into and out", cube.rows, num_ops + 1);
    check_length("columns of into and out", cube.columns, num_ops + 1);
  }
}

void check_anchors(const Anchors& anchors, const SlotArrays& slots, Int num_ops) {
  const auto& [cuts, split, after, pace, value] = anchors;
  check_range("cuts", View<const Int>(cuts.data, cuts.rows * cuts.columns), 0, num_ops + 1);
  check_length("rows of cuts", cuts.rows, slots.num_episodes());
  check_range("columns of cuts", Ints{cuts.columns}, slots.width() + 1, cuts.columns + 1);
  check_length("rows of after", after.rows, slots.num_episodes());
  check_length("columns of after", after.columns, slots.width());
  check_length("split", split.size(), slots.num_episodes());
  check_length("pace", pace.size(), slots.num_episodes());
  check_length("value", value.size(), slots.num_episodes());
}

Episode::Episode(const SlotArrays& slots, const Prefixes& sums, Int episode)
    : slots_(slots),
      n_(sums.num_ops()),
      num_slots_(slots.num_slots[episode]),
      order_(sums.orders[episode]),
      params_(sums.params[episode]),
      into_(sums.into.row(sums.crossing[episode], 0)),
      out_(sums.out.row(sums.crossing[episode], 0)) {
  for (Int s = 0; s < slots.width(); ++s) {
    OfSlot of{};
    of.rounds = slots.rounds[episode][s];
    of.memory_bytes = slots.memory_bytes[episode][s];
    of.spared = slots.spared[episode][s];
    of.besides_s = slots.besides_s[episode][s];
    of.reduce_s = slots.reduce_s[episode][s];
    of.reduce_s_per_byte = slots.reduce_s_per_byte[episode][s];
    of.in_flight = slots.in_flight[episode][s];
    of.into_s = slots.into_s[episode][s];
    of.port_into_s = slots.port_into_s[episode][s];
    of.mean_into_s = slots.mean_into_s[episode][s];
    of.latency_s = slots.latency_s[episode][s];
    of.out_s = slots.out_s[episode][s];
    of.port_out_s = slots.port_out_s[episode][s];
    of.time = sums.time.row(episode, s);
    of.forward = sums.forward.row(episode, s);
    of.weights = sums.weights.row(episode, s);
    of.resident = sums.resident.row(episode, s);
    of.saved = sums.saved.row(episode, s);
    of_slot_.push_back(of);
  }
}

double StageCost::gain() const {
  if (speedup == 0.0 || speedup == infinity) return speedup > 0.0 ? SURE_GAIN : -SURE_GAIN;
  return std::log(speedup);
}

StageCost Episode::cost(Int s, Int i, Int j, double after_s, bool split) const {
  const OfSlot& of = of_slot_[s];
  StageCost out;
  double compute_s = this->compute_s(s, i, j);
  const double again_s = compute_s + forward(s)[j] - forward(s)[i];
  const double rounds = this->rounds(s), memory = of.memory_bytes;
  const double kept = into(i)[j], sent = this->out(i)[j];
  const double busy_out_s = sent * of.out_s;
  const double transfer_s = kept * of.mean_into_s + of.latency_s;
  const double held = of.saved[j] - of.saved[i], largest = std::max(kept, sent);
  const double weight_bytes = params_[j] - params_[i];
  const double resident = of.resident[j] - of.resident[i] - of.spared * weight_bytes;
  const double base = resident + RETURNED * kept + AHEAD * sent + largest;
  const double in_flight = std::ceil(of.in_flight);
  out.busy_into_s = kept * of.into_s;
  out.memory_of_one = (base + held) / memory;
  out.memory = (base + held * in_flight) / memory;
  out.memory_recomputed = (base + kept * in_flight + held) / memory;
  const double room = memory - base, rest_s = 2.0 * transfer_s + after_s;
  Cycles cycles;
  if (slots_.steady) {
    cycles.keep_s = out.memory_of_one <= 1.0 ? compute_s * rounds : infinity;
    cycles.redo_s = room - held >= kept ? again_s * rounds : infinity;
  } else {
    // list schedules have room for the largest message, whatever comes
    const Replica replica{rounds, in_flight, AHEAD * (largest - sent)};
    cycles.keep_s = cycle_s(replica, compute_s, compute_s + rest_s, room, held);
    // where backward passes are split, what was computed again stays until the gradients of the weights are done
    cycles.redo_s = split ? cycle_s(replica, again_s, again_s + rest_s, room, kept + held)
                          : cycle_s(replica, again_s, again_s + rest_s, room - held, kept);
  }
  if (cycles.keep_s < infinity) {
    out.speedup = cycles.redo_s < infinity
                      ? std::max(cycles.keep_s + compute_s, TINY) / std::max(cycles.redo_s + again_s, TINY)
                      : 0.0;
  } else {
    out.speedup = cycles.redo_s < infinity || out.memory_recomputed < out.memory ? infinity : 0.0;
  }
  double cycle = cycles.keep_s, penalty_s = 0.0;
  if (out.speedup > 1.0) {
    compute_s = again_s;
    cycle = cycles.redo_s;
  }
  if (cycle == infinity) {
    cycle = compute_s * rounds;
    penalty_s = OVERFLOW_PENALTY * compute_s * rounds * std::max(out.memory_of_one, 1.0);
  }
  out.reduce_s = weight_bytes > 0.0 ? of.reduce_s + of.reduce_s_per_byte * weight_bytes : 0.0;
  const double number = static_cast<double>(slots_.num_microbatches);
  if (slots_.steady) {
    out.pace_s = cycle / number + 2.0 * (out.busy_into_s + busy_out_s) + out.reduce_s / number;
  } else {
    const double port_s = kept * of.port_into_s + sent * of.port_out_s;
    out.pace_s = std::max(cycle, std::max(out.busy_into_s, port_s) * (number - 1.0));
  }
  out.pace_s += penalty_s;
  out.pass_s = compute_s + 2.0 * transfer_s;
  out.waited_s = out.pass_s - (split ? weights_s(s, i, j) : 0.0);
  return out;
}

namespace {

// The dynamic program over (slot, position), from the end of the order; it keeps one label per state.
class CutProgram {
 public:
  CutProgram(const Episode& episode, bool split, Int places)
      : episode_(episode),
        split_(split),
        slots_(episode.num_slots()),
        n_(episode.num_ops()),
        stride_(std::max<Int>(1, std::min(n_ / places, n_ / slots_))),
        last_((n_ + stride_ - 1) / stride_),
        weight_(episode.steady() ? STEADY_WEIGHT : 1.0),
        pace_(slots_ + 1, last_ + 1, infinity),
        total_(slots_ + 1, last_ + 1, infinity),
        away_(slots_ + 1, last_ + 1, 0.0),
        late_(slots_ + 1, last_ + 1, 0.0),
        next_(slots_, last_ + 1, 0) {
    pace_[slots_][last_] = total_[slots_][last_] = 0.0;
  }

  void solve(Int* cuts) {
    for (Int s = slots_ - 1; s >= 0; --s) {
      const Int end = s == 0 ? 1 : last_ - (slots_ - s) + 1;
      for (Int x = s; x < end; ++x) solve_from(s, x);
    }
    Int place = 0;
    for (Int s = 0; s < slots_; ++s) {
      place = next_[s][place];
      cuts[s + 1] = position(place);
    }
  }

 private:
  Int position(Int place) const { return std::min(place * stride_, n_); }

  // The best stage in slot s that begins at place x.
  void solve_from(Int s, Int x) {
    const Int i = x * stride_;
    const double number = static_cast<double>(episode_.num_microbatches());
    const double rounds = episode_.steady() ? weight_ * episode_.rounds(s) / number : episode_.rounds(s) - 1.0;
    double best = infinity;
    for (Int k = x; k <= last_; ++k) {
      // first the end that was best for the beginning before this one: it rules out most others
      const Int before = x > 0 ? next_[s][x - 1] : 0;
      const Int y = k == x ? std::max(before, x + 1) : k;
      const Int j = position(y);
      const double compute_s = episode_.compute_s(s, i, j);
      const double least = compute_s - (split_ ? episode_.weights_s(s, i, j) : 0.0);
      if (rounds * compute_s + least >= best && k > x) break;
      const double after = total_[s + 1][y];
      if (std::max(rounds * compute_s, weight_ * pace_[s + 1][y]) + least + after >= best) continue;
      const StageCost cost = episode_.cost(s, i, j, away_[s + 1][y], split_);
      const double high = std::max(pace_[s + 1][y], cost.pace_s);
      // the earlier stages still run backward, two thirds of their pass, when a stage is done; but not if all have
      // gradients of weights left
      const double ends = std::max(cost.reduce_s, late_[s + 1][y] - (split_ ? 0.0 : BACKWARD * cost.pass_s));
      const double key = weight_ * high + cost.waited_s + after + (episode_.steady() ? 0.0 : ends);
      if (!(key < best)) continue;
      best = key;
      pace_[s][x] = high;
      total_[s][x] = cost.waited_s + after;
      late_[s][x] = ends;
      away_[s][x] = cost.pass_s + away_[s + 1][y];
      next_[s][x] = y;
    }
  }

  const Episode& episode_;
  const bool split_;
  const Int slots_, n_, stride_, last_;  // place x is position min(x * stride, n)
  const double weight_;
  // Of the stages from slot s on, if they begin at place x.
  OwnedTable<double> pace_;
  OwnedTable<double> total_;  // of what others wait for
  OwnedTable<double> away_;   // of whole passes: memory is free after all of them
  OwnedTable<double> late_;   // by how much an all-reduce ends after the last backward pass
  OwnedTable<Int> next_;      // place where the first of them ends
};

// Longest path through the stages, where those that do not wait for each other run at the same time.
double longest_path_s(const Episode& episode, const TensorGraph& graph, const Int* cuts, const Reals& waited_s) {
  Ints stage(episode.num_ops());
  for (Int s = 0; s < episode.num_slots(); ++s) {
    for (Int i = cuts[s]; i < cuts[s + 1]; ++i) stage[episode.op(i)] = s;
  }
  Reals ready(episode.num_slots(), 0.0);
  double longest = 0.0;
  for (Int s = 0; s < episode.num_slots(); ++s) {
    longest = std::max(longest, ready[s] + waited_s[s]);
    for (Int i = cuts[s]; i < cuts[s + 1]; ++i) {
      for (const Int after : graph.successors(episode.op(i))) {
        if (stage[after] > s) ready[stage[after]] = std::max(ready[stage[after]], ready[s] + waited_s[s]);
      }
    }
  }
  return longest;
}

}  // namespace

void solve_cuts(const Episode& episode, bool split, Int places, Int* cuts) {
  CutProgram(episode, split, places).solve(cuts);
}

Estimate judge_cuts(const Episode& episode, const TensorGraph& graph, bool split, const Int* cuts, double* after_s) {
  Reals waited_s(episode.num_slots());
  double pace_s = 0.0, late_s = 0.0, total_s = 0.0;
  for (Int s = episode.num_slots() - 1; s >= 0; --s) {
    after_s[s] = total_s;
    const StageCost cost = episode.cost(s, cuts[s], cuts[s + 1], total_s, split);
    waited_s[s] = cost.waited_s;
    pace_s = std::max(pace_s, cost.pace_s);
    total_s += cost.pass_s;
    late_s = std::max(cost.reduce_s, late_s - (split ? 0.0 : BACKWARD * cost.pass_s));
  }
  if (episode.steady()) return {pace_s, pace_s};
  return {pace_s, pace_s + longest_path_s(episode, graph, cuts, waited_s) + late_s};
}

namespace {

// The choices of one episode for one cut.
class CutChoice {
 public:
  CutChoice(const Episode& episode, const Anchors& anchors, Int b, Int c, const Int* cuts)
      : episode_(episode), anchors_(anchors), b_(b), c_(c), cuts_(cuts) {
    Reals live(episode.live_bytes().begin(), episode.live_bytes().end());
    double sum = 0.0;
    for (const double bytes : live) sum += bytes;
    mean_live_ = std::max(sum / static_cast<double>(live.size()), TINY);
  }

  void write(View<const Int> offsets, double* features, char* mask) const {
    const Int last = episode_.num_slots(), low = cuts_[c_ - 1] + 1, high = episode_.num_ops() - (last - c_);
    const Int anchor = std::min(std::max(anchors_.cuts[b_][c_], low), high);
    Reals full(offsets.size(), infinity);  // memory of the stages that must fit
    for (Int k = 0; k < offsets.size(); ++k) {
      const Int at = anchor + offsets[k];
      if (at < low || at > high) continue;
      const double after_s = anchors_.after[b_][c_];
      const bool split = anchors_.split[b_];
      const StageCost right = episode_.cost(c_, at, std::max(anchors_.cuts[b_][c_ + 1], at + 1), after_s, split);
      const StageCost left = episode_.cost(c_ - 1, cuts_[c_ - 1], at, right.pass_s + after_s, split);
      const CutFeatures f = features_of(offsets[k], at, left, right);
      std::memcpy(features + k * NUM_CUT_FEATURES, &f, sizeof f);
      mask[k] = 1;
      full[k] = c_ < last - 1 ? left.memory_of_one : std::max(left.memory_of_one, right.memory_of_one);
    }
    if (!(*std::min_element(full.begin(), full.end()) <= 1.0)) return;
    for (Int k = 0; k < offsets.size(); ++k) {
      if (full[k] > 1.0) mask[k] = 0;
    }
  }

 private:
  CutFeatures features_of(Int offset, Int at, const StageCost& left, const StageCost& right) const {
    const double top = anchors_.pace[b_], whole = std::max(anchors_.value[b_], TINY);
    CutFeatures f{};
    f.offset = static_cast<double>(offset) / 4.0;
    f.distance = static_cast<double>(std::abs(offset)) / 4.0;
    f.is_anchor = offset == 0;
    f.left_pace = std::min((left.pace_s - top) / whole, 2.0);
    f.right_pace = std::min((right.pace_s - top) / whole, 2.0);
    const double above = std::max(std::max(left.pace_s, right.pace_s) - top, 0.0);
    f.excess = std::min((above + left.waited_s + right.waited_s) / whole, 2.0);
    f.busy = std::min(static_cast<double>(episode_.num_microbatches()) * right.busy_into_s / whole, 2.0);
    f.left_memory = std::min(left.memory_of_one, 2.0);
    f.right_memory = std::min(right.memory_of_one, 2.0);
    f.live_bytes = std::log(episode_.live_bytes()[at] / mean_live_ + 1e-3) / 3.0;
    f.cut = static_cast<double>(c_) / static_cast<double>(episode_.num_slots());
    return f;
  }

  const Episode& episode_;
  const Anchors& anchors_;
  const Int b_, c_;
  const Int* cuts_;
  double mean_live_;
};

}  // namespace

CutChoices cut_choices(const SlotArrays& slots, const Prefixes& sums, const Anchors& anchors, Table<const Int> cuts,
                       Int c, View<const Int> offsets) {
  const Int batch = slots.num_episodes(), options = offsets.size();
  CutChoices out{OwnedCube<double>(batch, options, NUM_CUT_FEATURES, 0.0), OwnedTable<char>(batch, options, 0)};
  for (Int b = 0; b < batch; ++b) {
    if (c >= slots.num_slots[b]) {
      out.mask[b][0] = 1;
      continue;
    }
    const Episode episode(slots, sums, b);
    CutChoice(episode, anchors, b, c, cuts[b]).write(offsets, out.features.row(b, 0), out.mask[b]);
  }
  return out;
}

OwnedCube<double> stage_memory(const SlotArrays& slots, const Prefixes& sums, View<const bool> split,
                               Table<const Int> cuts) {
  OwnedCube<double> out(slots.num_episodes(), slots.width(), NUM_MEMORY_FEATURES, 0.0);
  for (Int b = 0; b < slots.num_episodes(); ++b) {
    const Episode episode(slots, sums, b);
    double after_s = 0.0;
    for (Int s = episode.num_slots() - 1; s >= 0; --s) {
      const Int i = cuts[b][s], j = cuts[b][s + 1];
      const StageCost cost = episode.cost(s, i, j, after_s, split[b]);
      after_s += cost.pass_s;
      MemoryFeatures f{};
      f.memory = std::min(cost.memory, 4.0);
      f.memory_recomputed = std::min(cost.memory_recomputed, 4.0);
      f.repeated = episode.forward_s(s, i, j) / std::max(episode.compute_s(s, i, j), TINY);
      f.gain = clipped(cost.gain(), -2.0, 2.0);
      f.memory_of_one = std::min(cost.memory_of_one, 4.0);
      std::memcpy(out.row(b, s), &f, sizeof f);
    }
  }
  return out;
}

}  // namespace drlpp
