#include "cost/placement.h"

#include <algorithm>

namespace drlpp {

namespace {

// Rounds in which every slot has one turn.
void take_equal_turns(PlacedStages& out) {
  const Int slots = out.num_slots(), number = out.num_microbatches;
  out.round_off = out.slot_off;
  for (Ints* list : {&out.round_slot, &out.turn, &out.slot_microbatches}) list->resize(slots);
  out.turn_off.resize(slots + 1);
  for (Int s = 0; s < out.num_stages(); ++s) {
    const Int first = out.slot_off[s], count = out.slot_off[s + 1] - first;
    for (Int r = 0; r < count; ++r) {
      const Int slot = first + r;
      out.round_slot[slot] = out.turn_off[slot] = slot;
      out.turn[slot] = r;
      out.slot_microbatches[slot] = count == 1 ? number : r < number ? (number - r + count - 1) / count : 0;
    }
  }
  out.turn_off[slots] = slots;
}

}  // namespace

// Whether every stage has an op and no edge goes back.
bool Placement::is_legal(const ProblemArrays& a, const AssignmentView& assignment) {
  const Int stages = assignment.num_stages();
  const auto& labels = assignment.labels;
  seen_.assign(stages, 0);
  Int count = 0;
  for (Int s : labels) {
    if (s < 0 || s >= stages) return false;
    count += 1 - seen_[s];
    seen_[s] = 1;
  }
  for (Int e = 0; e < a.num_edges(); ++e) {
    Int before = labels[a.edge_src[e]], after = labels[a.edge_dst[e]];
    if (a.value_backward[a.edge_value[e]]) std::swap(before, after);
    if (before > after) return false;
  }
  return count == stages;
}

// Numbers the devices that are used in ascending order.
void Placement::place_devices(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out) {
  number_.assign(a.num_devices(), -1);
  for (Int d : assignment.devices) number_[d] = 0;
  out.used.clear();
  for (Int d = 0; d < a.num_devices(); ++d) {
    if (number_[d] < 0) continue;
    number_[d] = size_of(out.used);
    out.used.push_back(d);
  }
  out.slot_device.resize(assignment.devices.size());
  for (Int i = 0; i < out.num_slots(); ++i) out.slot_device[i] = number_[assignment.devices[i]];
  out.memory_bytes.resize(out.used.size());
  out.members.resize(out.used.size());
  for (Int u = 0; u < out.num_devices(); ++u) {
    out.memory_bytes[u] = a.memory_bytes[out.used[u]];
    out.members[u] = a.members[out.used[u]];
  }
}

// Rounds in which slots have as many turns as their shares say: the rule of `plan/shares.py`.
void Placement::take_turns(const AssignmentView& assignment, PlacedStages& out) {
  if (assignment.shares.size() == 0) return take_equal_turns(out);
  for (Ints* list : {&out.round_slot, &out.turn, &out.slot_microbatches}) list->clear();
  out.round_off.assign(1, 0);
  out.turn_off.assign(1, 0);
  for (Int s = 0; s < out.num_stages(); ++s) {
    turns_.clear();
    for (Int i = out.slot_off[s]; i < out.slot_off[s + 1]; ++i) {
      for (Int count = 1; count <= assignment.shares[i]; ++count) turns_.push_back({count, assignment.shares[i], i});
    }
    std::sort(turns_.begin(), turns_.end(), [](const Turn& x, const Turn& y) {
      const Int a = x.count * y.share, b = y.count * x.share;  // by count / share
      return a != b ? a < b : x.slot < y.slot;
    });
    const Int length = size_of(turns_), rounds = out.num_microbatches / length, rest = out.num_microbatches % length;
    for (const Turn& turn : turns_) out.round_slot.push_back(turn.slot);
    for (Int i = out.slot_off[s]; i < out.slot_off[s + 1]; ++i) {
      Int number = 0;
      for (Int m = 0; m < length; ++m) {
        if (turns_[m].slot != i) continue;
        out.turn.push_back(m);
        number += rounds + (m < rest ? 1 : 0);
      }
      out.turn_off.push_back(size_of(out.turn));
      out.slot_microbatches.push_back(number);
    }
    out.round_off.push_back(size_of(out.round_slot));
  }
}

// Numbers the hosts of the used devices, and the devices that share channels: those of a host, or all of them if
// messages carry their own time.
void Placement::place_hosts(const ProblemArrays& a, bool timed, PlacedStages& out) {
  const Int devices = out.num_devices();
  host_number_.assign(a.num_hosts(), -1);
  on_host_.assign(a.num_hosts(), 0);
  out.links.host.resize(devices);
  out.links.site.resize(devices);
  out.local.resize(devices);
  Int hosts = 0, most = 0;
  for (Int u = 0; u < devices; ++u) {  // devices are listed host by host, so hosts come in ascending order
    const Int h = a.device_host[out.used[u]];
    if (host_number_[h] < 0) host_number_[h] = hosts++;
    out.links.host[u] = host_number_[h];
    out.links.site[u] = a.device_site[out.used[u]];
    out.local[u] = timed ? u : on_host_[h];
    most = std::max(most, ++on_host_[h]);
  }
  out.channel_width = timed ? devices : most;
  Links& links = out.links;
  for (Ints* list : {&links.sites, &links.link_off}) list->clear();
  for (Reals* list : {&links.link_bandwidth, &links.link_latency_s, &links.link_step_s}) list->clear();
  for (Reals* list : {&links.port_bandwidth, &links.port_latency_s}) list->clear();
  for (Int h = 0; h < a.num_hosts(); ++h) {
    if (host_number_[h] < 0) continue;
    links.sites.push_back(a.sites[h]);
    links.link_off.push_back(size_of(links.link_bandwidth));
    for (Int k = a.link_off[h]; k < a.link_off[h] + a.sites[h] * a.sites[h]; ++k) {
      links.link_bandwidth.push_back(a.link_bandwidth[k]);
      links.link_latency_s.push_back(a.link_latency_s[k]);
      links.link_step_s.push_back(a.link_step_s[k]);
    }
    links.port_bandwidth.push_back(a.port_bandwidth[h]);
    links.port_latency_s.push_back(a.port_latency_s[h]);
  }
}

void Placement::add_times(const Matrix& op_s, const AssignmentView& assignment, Matrix& stage_s) {
  stage_s.assign(op_s.rows, assignment.num_stages(), 0.0);
  for (Int k = 0; k < op_s.rows; ++k) {
    const double* from = op_s[k];
    double* to = stage_s[k];
    for (Int o = 0; o < op_s.columns; ++o) to[assignment.labels[o]] += from[o];
  }
}

void Placement::measure_again(const ProblemArrays& a, const AssignmentView& assignment) {
  again_s_.assign(a.num_types(), assignment.num_stages(), 0.0);
  if (std::all_of(assignment.recompute.begin(), assignment.recompute.end(), [](Int r) { return r == KEEP_ALL; })) return;
  for (Int k = 0; k < a.num_types(); ++k) {
    for (Int o = 0; o < a.num_ops(); ++o) {
      const Int s = assignment.labels[o];
      if (runs_again(assignment.recompute[s], a.block[o])) again_s_[k][s] += a.forward_s[k][o];
    }
  }
}

void Placement::measure_times(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out) {
  add_times(a.forward_s, assignment, forward_s_);
  add_times(a.input_grad_s, assignment, input_grad_s_);
  add_times(a.weight_grad_s, assignment, weight_grad_s_);
  measure_again(a, assignment);
  out.action_s.assign(NUM_ACTIONS, out.num_slots(), 0.0);
  for (Int s = 0; s < out.num_stages(); ++s) {
    for (Int i = out.slot_off[s]; i < out.slot_off[s + 1]; ++i) {
      const Int k = a.device_type[assignment.devices[i]];
      const double forward = forward_s_[k][s] + a.besides_s[k], input_grad = input_grad_s_[k][s] + a.besides_s[k];
      const double again = again_s_[k][s], weight_grad = weight_grad_s_[k][s];
      out.action_s[FORWARD][i] = forward;
      out.action_s[BACKWARD][i] = again + (input_grad + weight_grad);
      out.action_s[INPUT_GRAD][i] = again + input_grad;
      out.action_s[WEIGHT_GRAD][i] = weight_grad;
    }
  }
}

bool Placement::place(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out) {
  if (!is_legal(a, assignment)) return false;
  out.num_microbatches = a.num_microbatches;
  out.slot_off.assign(1, 0);
  for (Int count : assignment.replicas) out.slot_off.push_back(out.slot_off.back() + count);
  place_devices(a, assignment, out);
  take_turns(assignment, out);
  messages_.find(a, assignment, out);
  place_hosts(a, messages_.timed(), out);
  out.ports_shared = out.links.num_hosts() > 1 && messages_.uses_links() ? 1 : 0;
  measure_times(a, assignment, out);
  messages_.measure_activations(a, assignment, out);
  parameters_.find(a, assignment);
  parameters_.place(a, assignment, out);
  parameters_.reduce(a, out);
  return true;
}

}  // namespace drlpp
