#include "planners/consecutive/split_program.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "border/checks.h"
#include "cost/memory.h"

namespace drlpp {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// One device state and one step to it: the first stages that it can have.
class Step {
 public:
  Step(const SplitTable& table, const SplitModel& model, const DeviceStates& devices, const SplitLimits& limits)
      : table_(table), model_(model), devices_(devices), limits_(limits) {
    slack_ = 1e-9 * model.work_s[last()];
  }

  // Lets some devices idle: the state behind is as good.
  void idle(Int q, Int e) const {
    const Int after = devices_.rest[e];
    for (Int i = 0; i <= last(); ++i) {
      if (table_.value_s[after][i] < table_.value_s[q][i]) set(q, i, table_.value_s[after][i], i, e);
    }
  }

  // Adds a stage on the devices of the step in front of what is behind.
  void fill(Int q, Int e, double all_capacity) {
    const double behind = devices_.capacity[q] * limits_.load_s + slack_;
    const double before = (all_capacity - devices_.capacity[q]) * limits_.load_s + slack_;
    take(e);
    for (Int i = 0; i < last(); ++i) {
      if (model_.work_s[last()] - model_.work_s[i] > behind) continue;
      if (model_.work_s[i] > before) break;
      best_stage(q, i, e);
    }
  }

 private:
  Int last() const { return model_.num_states() - 1; }

  void set(Int q, Int i, double value_s, Int next, Int e) const {
    table_.value_s[q][i] = value_s;
    table_.next_state[q][i] = static_cast<std::int32_t>(next);
    table_.step[q][i] = static_cast<std::int32_t>(e);
  }

  void take(Int e) {
    pace_ = devices_.speed[e] / devices_.share[e];
    share_ = devices_.share[e];
    into_s_ = devices_.seconds_in[e];
    out_s_ = devices_.seconds_out[e];
    into_latency_s_ = devices_.latency_in_s[e];
    out_latency_s_ = devices_.latency_out_s[e];
    sync_s_ = devices_.sync_s[e];
    sync_s_per_byte_ = devices_.sync_s_per_byte[e];
    memory_bytes_ = devices_.memory_bytes[e] * limits_.memory_share;
    resident_factor_ = devices_.resident_factor[e];
    in_flight_ = devices_.in_flight[e];
    is_replicated_ = devices_.replicas[e] > 1;
    recomputes_ = devices_.recompute[e];
    kept_of_input_ = devices_.seconds_in[e] != 1.0 ? 0.5 : 0.0;
    op_s_ = model_.total_s[devices_.type_index[e]];
    forward_s_ = model_.forward_s[devices_.type_index[e]];
    capacity_behind_ = devices_.capacity[devices_.rest[e]];
    tails_ = table_.value_s[devices_.rest[e]];
  }

  // Seconds of a micro-batch through the stage (i, j).
  double seconds(Int j, double op_s, double forward_s, double into, double out) const {
    double total = op_s_[j] - op_s + into * into_s_ + out * out_s_;
    if (into > 0) total += 2 * into_latency_s_;
    if (out > 0) total += 2 * out_latency_s_;
    if (recomputes_) total += forward_s_[j] - forward_s;
    return total;
  }

  // Whether the stage (i, j) fits the memory.
  bool fits(Int i, Int j, double params, double into) const {
    double kept = model_.saved_bytes[j] - model_.saved_bytes[i], once = 0.0;
    if (recomputes_) std::swap(kept, once);
    const double resident = resident_bytes(params, resident_factor_, model_.fixed_bytes[j] - model_.fixed_bytes[i]);
    return !(resident + in_flight_ * (kept + kept_of_input_ * into) + once > memory_bytes_);
  }

  // The best end of a stage that begins at model state i.
  void best_stage(Int q, Int i, Int e) const {
    const double *work_s = model_.work_s.data, *received = model_.received[i], *sent = model_.sent[i];
    const double op_s = op_s_[i], forward_s = forward_s_[i], params_before = model_.param_bytes[i];
    double best = table_.value_s[q][i];
    Int best_end = -1;
    // what is behind j must fit the devices behind, and the stage its own, with less than the best so far
    const double most = limits_.as_sum ? limits_.load_s : std::min(limits_.load_s, best);
    const double least_work = work_s[last()] - capacity_behind_ * most - slack_;
    double reach = work_s[i] + pace_ * most + slack_;
    for (Int j = std::max(i + 1, first_with(least_work)); j <= last(); ++j) {
      if (work_s[j] > reach) break;
      const double tail = tails_[j];
      if (tail >= best) continue;
      const double into = received[j];
      if (into == infinity) continue;
      const double total = seconds(j, op_s, forward_s, into, sent[j]);
      const double params = model_.param_bytes[j] - params_before;
      double load = total * share_;
      if (is_replicated_ && params > 0) load += sync_s_ + sync_s_per_byte_ * params;
      if (load > limits_.load_s) continue;
      const double value = limits_.as_sum ? tail + total : std::max(tail, load);
      if (!(value < best) || !fits(i, j, params, into)) continue;
      best = value;
      best_end = j;
      if (!limits_.as_sum && value < most) reach = work_s[i] + pace_ * value + slack_;
    }
    if (best_end >= 0) set(q, i, best, best_end, e);
  }

  // The first model state with so much work; nan (no devices, and no limit): none has.
  Int first_with(double work_s) const {
    if (std::isnan(work_s)) return model_.num_states();
    return std::lower_bound(model_.work_s.begin(), model_.work_s.end(), work_s) - model_.work_s.begin();
  }

  const SplitTable& table_;
  const SplitModel& model_;
  const DeviceStates& devices_;
  const SplitLimits& limits_;
  double slack_ = 0.0;
  // Of the step.
  double pace_ = 0.0, share_ = 0.0, into_s_ = 0.0, out_s_ = 0.0, into_latency_s_ = 0.0, out_latency_s_ = 0.0;
  double sync_s_ = 0.0, sync_s_per_byte_ = 0.0, memory_bytes_ = 0.0, resident_factor_ = 0.0,
         capacity_behind_ = 0.0;
  double kept_of_input_ = 0.0;  // part of a received amount that is kept as bytes: half of it is the gradient
  Int in_flight_ = 0;
  bool is_replicated_ = false, recomputes_ = false;
  const double *op_s_ = nullptr, *forward_s_ = nullptr, *tails_ = nullptr;
};

}  // namespace

void SplitModel::check() const {
  const Int states = num_states();
  check_length("param_bytes", param_bytes.size(), states);
  check_length("fixed_bytes", fixed_bytes.size(), states);
  check_length("saved_bytes", saved_bytes.size(), states);
  check_length("columns of total_s", total_s.columns, states);
  check_length("rows of forward_s", forward_s.rows, total_s.rows);
  check_length("columns of forward_s", forward_s.columns, states);
  for (const auto& table : {received, sent}) {
    check_length("rows of received and sent", table.rows, states);
    check_length("columns of received and sent", table.columns, states);
  }
}

void DeviceStates::check() const {
  check_offsets("step_ptr", step_ptr, num_states(), num_steps());
  check_range("rest", rest, 0, num_states());
  check_length("replicas", replicas.size(), num_steps());
  check_length("type_index", type_index.size(), num_steps());
  check_length("in_flight", in_flight.size(), num_steps());
  check_length("recompute", recompute.size(), num_steps());
  for (const auto& column :
       {speed, share, seconds_in, seconds_out, latency_in_s, latency_out_s, sync_s, sync_s_per_byte, memory_bytes,
        resident_factor}) {
    check_length("a column of the steps", column.size(), num_steps());
  }
}

void fill_rows(const SplitTable& table, const SplitModel& model, const DeviceStates& devices, const SplitLimits& limits,
               Int start, Int stop) {
  check_length("rows of value_s", table.value_s.rows, devices.num_states());
  check_length("columns of value_s", table.value_s.columns, model.num_states());
  check_range("type_index", devices.type_index, 0, model.total_s.rows);
  const double all_capacity = *std::max_element(devices.capacity.begin(), devices.capacity.end());
  Step step(table, model, devices, limits);
  for (Int q = start; q < stop; ++q) {
    for (Int e = devices.step_ptr[q]; e < devices.step_ptr[q + 1]; ++e) {
      if (devices.replicas[e] == 0) {
        step.idle(q, e);
      } else {
        step.fill(q, e, all_capacity);
      }
    }
  }
}

}  // namespace drlpp
