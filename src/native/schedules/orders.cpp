#include "schedules/orders.h"

#include <algorithm>

namespace drlpp {

void empty_orders(const PlacedStages& p, Int kinds, FlatSchedule& flat, Ints& fill) {
  const Int devices = p.num_devices();
  flat.offset.assign(devices + 1, 0);
  for (Int i = 0; i < p.num_slots(); ++i) flat.offset[p.slot_device[i] + 1] += p.slot_microbatches[i] * kinds;
  fill.resize(devices);
  for (Int d = 0; d < devices; ++d) {
    flat.offset[d + 1] += flat.offset[d];
    fill[d] = flat.offset[d];
  }
  const Int total = p.num_stages() * p.num_microbatches * kinds;
  flat.stage.resize(total);
  flat.kind.resize(total);
  flat.microbatch.resize(total);
}

void WaveSorter::sort(const PlacedStages& p, const Wave& wave, FlatSchedule& flat) {
  const Int num_rows = size_of(wave.kind), num_slots = p.num_slots(), num_kinds = num_rows / num_slots;
  empty_orders(p, num_kinds, flat, fill_);
  Int low = wave.offset[0], high = wave.offset[0];
  for (Int r = 0; r < num_rows; ++r) {
    low = std::min(low, wave.offset[r]);
    high = std::max(high, wave.offset[r] + wave.stride[r] * (p.num_microbatches - 1));
  }
  slot_stage_.resize(num_slots);
  for (Int s = 0; s < p.num_stages(); ++s) {
    for (Int i = p.slot_off[s]; i < p.slot_off[s + 1]; ++i) slot_stage_[i] = s;
  }
  const auto for_actions = [&](auto act) {  // calls act(row, slot, micro-batch, key)
    for (Int r = 0, slot = 0; r < num_rows; ++r, slot = slot + 1 < num_slots ? slot + 1 : 0) {
      const Int offset = wave.offset[r] - low, stride = wave.stride[r];
      p.for_microbatches(slot_stage_[slot], slot, [&](Int m) { act(r, slot, m, offset + stride * m); });
    }
  };
  // a counting sort by key, then distribution to the devices
  start_.assign(high - low + 2, 0);
  for_actions([&](Int, Int, Int, Int key) { ++start_[key + 1]; });
  for (Int k = 1; k < size_of(start_); ++k) start_[k] += start_[k - 1];
  action_.resize(flat.num_actions());
  for_actions([&](Int r, Int slot, Int m, Int key) {
    action_[start_[key]++] = {static_cast<std::int32_t>(r), static_cast<std::int32_t>(slot), static_cast<std::int32_t>(m)};
  });
  for (const Action& action : action_) {
    const Int at = fill_[p.slot_device[action.slot]]++;
    flat.set(at, slot_stage_[action.slot], wave.kind[action.row], action.microbatch);
  }
}

}  // namespace drlpp
