#include "cost/stage_parameters.h"

#include <algorithm>

#include "cost/collectives.h"
#include "cost/memory.h"

namespace drlpp {

void StageParameters::find(const ProblemArrays& a, const AssignmentView& assignment) {
  const Int stages = assignment.num_stages();
  fixed_.assign(stages, 0.0);
  trained_.assign(stages, 0.0);
  holder_.assign(stages, -1);
  tied_sets_.assign(0, stages);
  tied_fixed_.clear();
  tied_trained_.clear();
  types_ = a.num_types();
  assignment.stage_types(a, type_);
  for (Int p = 0; p < a.num_params(); ++p) {
    const Int row = tied_sets_.add_row();  // the stages of the parameter in hand
    Int count = 0;
    for (Int r = a.reader_off[p]; r < a.reader_off[p + 1]; ++r) {
      const Int s = assignment.labels[a.reader[r]];
      if (holder_[s] == p) continue;
      holder_[s] = p;
      fixed_[s] += a.fixed_bytes[type_[s]][p];
      trained_[s] += a.trained_bytes[type_[s]][p];
      tied_sets_.insert(row, s);
      ++count;
    }
    Int at = row;
    if (count > 1) {
      at = 0;
      while (!tied_sets_.equal(at, row)) ++at;
      if (at == row) {
        tied_fixed_.resize(tied_fixed_.size() + types_, 0.0);
        tied_trained_.resize(tied_trained_.size() + types_, 0.0);
      }
      for (Int k = 0; k < types_; ++k) {
        tied_fixed_[at * types_ + k] += a.fixed_bytes[k][p];
        tied_trained_[at * types_ + k] += a.trained_bytes[k][p];
      }
    }
    if (count < 2 || at != row) tied_sets_.drop_last();
  }
  tied_order_.resize(tied_trained_.size() / types_);
  for (Int i = 0; i < size_of(tied_order_); ++i) tied_order_[i] = i;
  std::sort(tied_order_.begin(), tied_order_.end(), [this](Int i, Int j) { return tied_sets_.lists_before(i, j); });
}

// Takes second copies out of the sums of each device; `share_`, so far its trained bytes, becomes the part that stays.
void StageParameters::share_copies(const ProblemArrays& a, PlacedStages& out) {
  const Int devices = out.num_devices();
  copies_.assign(devices, 0.0);
  fixed_copies_.assign(devices, 0.0);
  count_.resize(devices);
  for (Int g : tied_order_) {
    std::fill(count_.begin(), count_.end(), 0);
    tied_sets_.for_each(g, [&](Int s) {
      for (Int r = out.slot_off[s]; r < out.slot_off[s + 1]; ++r) ++count_[out.slot_device[r]];
    });
    for (Int u = 0; u < devices; ++u) {
      if (count_[u] < 2) continue;
      const Int k = a.device_type[out.used[u]];
      copies_[u] += static_cast<double>(count_[u] - 1) * held(g, k);
      fixed_copies_[u] += static_cast<double>(count_[u] - 1) * tied_fixed_[g * types_ + k];
    }
  }
  for (Int u = 0; u < devices; ++u) {
    share_[u] = share_of_read(share_[u], copies_[u]);
    out.resident_bytes[u] *= share_[u];
    out.resident_bytes[u] += held_fixed_[u] * share_of_read(held_fixed_[u], fixed_copies_[u]);
    out.optimizer_s[u] *= share_[u];
  }
}

void StageParameters::place(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out) {
  const Int devices = out.num_devices();
  out.resident_bytes.assign(devices, 0.0);
  out.optimizer_s.assign(devices, 0.0);
  share_.assign(devices, 0.0);
  held_fixed_.assign(devices, 0.0);
  for (Int s = 0; s < out.num_stages(); ++s) {
    for (Int i = out.slot_off[s]; i < out.slot_off[s + 1]; ++i) {
      const Int u = out.slot_device[i];
      out.resident_bytes[u] += resident_bytes(trained_[s], a.resident_factor, 0.0);
      held_fixed_[u] += fixed_[s];
      out.optimizer_s[u] += optimizer_step_s(trained_[s], a.optimizer_s[assignment.devices[i]]);
      share_[u] += trained_[s];
    }
  }
  share_copies(a, out);
  out.gradient_bytes.resize(out.num_slots());
  for (Int s = 0; s < out.num_stages(); ++s) {
    for (Int i = out.slot_off[s]; i < out.slot_off[s + 1]; ++i) {
      out.gradient_bytes[i] = trained_[s] * a.gradient_factor * share_[out.slot_device[i]];
    }
  }
}

// Adds an all-reduce over the devices of a set of stages, unless it is one device only.
void StageParameters::add_group(const ProblemArrays& a, Int tied, PlacedStages& out) {
  const Int stages = out.num_stages(), devices = out.num_devices();
  std::fill(on_device_.begin(), on_device_.end(), 0);
  Int pending = 0, members = 0;
  for (Int s = 0; s < stages; ++s) {
    if (!has(tied, s)) continue;
    for (Int r = out.slot_off[s]; r < out.slot_off[s + 1]; ++r) {
      pending += out.slot_microbatches[r] > 0;
      members += 1 - on_device_[out.slot_device[r]];
      on_device_[out.slot_device[r]] = 1;
    }
  }
  if (members < 2) return;
  double num_bytes = 0.0;
  for (Int u = 0; u < devices; ++u) {
    if (!on_device_[u]) continue;
    const double here = held(tied, a.device_type[out.used[u]]), spared = spared_bytes(here, members);
    num_bytes = std::max(num_bytes, here);
    out.resident_bytes[u] -= spared * a.divided_states;
    if (a.zero1) out.optimizer_s[u] -= optimizer_step_s(spared, a.optimizer_s[out.used[u]]);
  }
  if (num_bytes <= 0.0) return;
  std::fill(on_host_.begin(), on_host_.end(), 0);
  for (Int u = 0; u < devices; ++u) {
    if (!on_device_[u]) continue;
    out.group_device.push_back(u);
    ++on_host_[out.links.host[u]];
  }
  out.group_off.push_back(size_of(out.group_device));
  const Int hosts_before = size_of(out.group_host);
  for (Int h = 0; h < size_of(on_host_); ++h) {
    if (on_host_[h]) out.group_host.push_back(h);
  }
  out.group_host_off.push_back(size_of(out.group_host));
  out.group_spans.push_back(size_of(out.group_host) - hosts_before > 1 ? 1 : 0);
  out.group_pending.push_back(pending);
  const Int first = size_of(out.group_device) - members;
  out.group_s.push_back(all_reduce_s(out.links, {out.group_device.data() + first, members}, num_bytes));
  group_tied_.push_back(tied);
  for (Int s = 0; s < stages; ++s) out.stage_group_off[s + 1] += has(tied, s);
}

void StageParameters::reduce(const ProblemArrays& a, PlacedStages& out) {
  const Int stages = out.num_stages();
  own_ = trained_;
  for (Int g : tied_order_) tied_sets_.for_each(g, [&](Int s) { own_[s] -= held(g, type_[s]); });
  on_device_.resize(out.num_devices());
  on_host_.resize(out.links.num_hosts());
  for (Ints* list : {&out.group_pending, &out.group_spans, &out.group_device, &out.group_host}) list->clear();
  out.group_s.clear();
  group_tied_.clear();
  out.group_off.assign(1, 0);
  out.group_host_off.assign(1, 0);
  out.stage_group_off.assign(stages + 1, 0);
  for (Int s = 0; s < stages; ++s) {
    own_[s] = own_bytes(own_[s], trained_[s]);
    if (out.replicas(s) > 1) add_group(a, -1 - s, out);
  }
  for (Int g : tied_order_) add_group(a, g, out);
  for (Int s = 0; s < stages; ++s) out.stage_group_off[s + 1] += out.stage_group_off[s];
  fill_.assign(out.stage_group_off.begin(), out.stage_group_off.end());
  out.stage_group.resize(out.stage_group_off[stages]);
  for (Int g = 0; g < out.num_groups(); ++g) {
    for (Int s = 0; s < stages; ++s) {
      if (has(group_tied_[g], s)) out.stage_group[fill_[s]++] = g;
    }
  }
}

}  // namespace drlpp
