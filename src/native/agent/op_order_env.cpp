#include "agent/op_order_env.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "border/checks.h"

namespace drlpp {

OpOrderWalks::OpOrderWalks(TensorGraph graph, WalkSetting setting)
    : graph_(std::move(graph)), setting_(std::move(setting)) {
  const Int batch = size_of(setting_.num_slots), n = graph_.num_ops();
  check_length("share", size_of(setting_.share), n);
  check_length("rows of ends", setting_.ends.rows, batch);
  check_range("num_slots", setting_.num_slots, 1, setting_.ends.columns + 1);
  ends_ = OwnedTable<double>(batch, setting_.ends.columns, 0.0);
  std::copy_n(setting_.ends.data, batch * setting_.ends.columns, ends_[0]);
  Walk first;
  first.waiting.assign(n, 0);
  for (const Int op : graph_.succ) ++first.waiting[op];
  for (Int op = n - 1; op >= 0; --op) {
    if (first.waiting[op] == 0) first.ready.push_back(op);
  }
  first.since.assign(n, 0);
  for (Int q = 0; q < graph_.num_tensors(); ++q) first.pending.push_back(graph_.num_ends(q));
  walks_.assign(batch, first);
}

Reals OpOrderWalks::live_bytes() const {
  Reals out;
  for (const Walk& walk : walks_) out.push_back(walk.live_bytes);
  return out;
}

// The slot that is filled.
Int OpOrderWalks::slot_of(Int b) const {
  Int slot = 0;
  while (slot < setting_.num_slots[b] - 1 && walks_[b].done >= ends_[b][slot] - 1e-9) ++slot;
  return slot;
}

Observation OpOrderWalks::observe() const {
  const Int batch = num_walks(), width = setting_.width;
  Observation out{OwnedTable<Int>(batch, width, 0), OwnedCube<double>(batch, width, NUM_CANDIDATE_FEATURES, 0.0),
                  OwnedTable<char>(batch, width, 0), OwnedTable<double>(batch, NUM_STATE_FEATURES, 0.0)};
  for (Int b = 0; b < batch; ++b) {
    const Ints& ready = walks_[b].ready;
    const Int slot = slot_of(b), count = std::min(size_of(ready), width);
    Int smallest = num_ops();
    for (Int k = 0; k < count; ++k) smallest = std::min(smallest, ready[ready.size() - 1 - k]);
    for (Int k = 0; k < count; ++k) {
      const Int op = ready[ready.size() - 1 - k];
      const CandidateFeatures features = candidate(b, slot, op, smallest);
      out.candidates[b][k] = op;
      out.mask[b][k] = 1;
      std::memcpy(out.features.row(b, k), &features, sizeof features);
    }
    const StateFeatures features = state(b, slot);
    std::memcpy(out.state[b], &features, sizeof features);
  }
  return out;
}

CandidateFeatures OpOrderWalks::candidate(Int b, Int slot, Int op, Int smallest) const {
  const Walk& walk = walks_[b];
  const double n = static_cast<double>(num_ops()), share = setting_.share[op];
  double added = 0.0, freed = 0.0;
  for (const Int q : graph_.tensors_of(op)) {
    if (walk.pending[q] == graph_.num_ends(q)) {
      added += graph_.tensor_bytes[q];
    } else if (walk.pending[q] == 1) {
      freed += graph_.tensor_bytes[q];
    }
  }
  bool follows = false;
  if (walk.last >= 0) {
    const auto after = graph_.successors(walk.last);
    follows = std::find(after.begin(), after.end(), op) != after.end();
  }
  CandidateFeatures f{};
  f.follows = follows;
  f.waited = std::log(1.0 + static_cast<double>(step_) - static_cast<double>(walk.since[op])) / 3.0;
  f.live_change = std::min(std::max((added - freed) / setting_.mean_live_bytes, -3.0), 3.0);
  f.share = std::log(share * n + 1e-3) / 3.0;
  f.is_first = op == smallest;
  f.distance = std::min(static_cast<double>(op - smallest) / n * 4.0, 2.0);
  f.overfills = slot < setting_.num_slots[b] - 1 && walk.done + share > ends_[b][slot];
  return f;
}

StateFeatures OpOrderWalks::state(Int b, Int slot) const {
  const Walk& walk = walks_[b];
  const double slots = static_cast<double>(setting_.num_slots[b]), ready = static_cast<double>(walk.ready.size());
  const double start = slot > 0 ? ends_[b][slot - 1] : 0.0, width = std::max(ends_[b][slot] - start, 1e-9);
  const double live = walk.live_bytes / setting_.mean_live_bytes;
  StateFeatures f{};
  f.done = walk.done;
  f.slot = static_cast<double>(slot) / slots;
  f.left = std::min((ends_[b][slot] - walk.done) / width, 1.0);
  f.width = std::log(width * slots + 1e-3) / 3.0;
  f.num_slots = std::log(slots) / 3.0;
  f.live_log = std::log(live + 1e-3) / 3.0;
  f.num_ready = ready > 0 ? std::log(ready) / 3.0 : 0.0;
  f.live = std::min(live, 4.0) / 2.0;
  return f;
}

void OpOrderWalks::step(View<const Int> ops) {
  check_length("ops", ops.size(), num_walks());
  ++step_;
  for (Int b = 0; b < num_walks(); ++b) step(walks_[b], ops[b]);
}

void OpOrderWalks::step(Walk& walk, Int op) {
  const auto found = std::find(walk.ready.begin(), walk.ready.end(), op);
  if (found == walk.ready.end()) throw std::invalid_argument("op " + std::to_string(op) + " is not ready");
  walk.ready.erase(found);
  walk.done += setting_.share[op];
  walk.last = op;
  for (const Int q : graph_.tensors_of(op)) {
    if (walk.pending[q] == graph_.num_ends(q)) walk.live_bytes += graph_.tensor_bytes[q];
    if (--walk.pending[q] == 0) walk.live_bytes -= graph_.tensor_bytes[q];
  }
  const auto after = graph_.successors(op);
  for (Int k = after.size() - 1; k >= 0; --k) {
    if (--walk.waiting[after[k]] != 0) continue;
    walk.ready.push_back(after[k]);
    walk.since[after[k]] = step_;
  }
}

}  // namespace drlpp
