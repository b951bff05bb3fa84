#include "schedules/orders.h"

#include <algorithm>

namespace drlpp {

void empty_orders(const PlacedStages& p, Int kinds, FlatSchedule& flat, Ints& fill) {
  const Int devices = p.num_devices();
  flat.offset.assign(devices + 1, 0);
  for (Int s = 0; s < p.num_stages(); ++s) {
    const Int first = p.slot_off[s], replicas = p.replicas(s);
    for (Int i = 0; i < replicas; ++i) flat.offset[p.slot_device[first + i] + 1] += p.share(s, i) * kinds;
  }
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
  const Int num_rows = size_of(wave.kind), num_mb = p.num_microbatches, num_stages = p.num_stages();
  empty_orders(p, num_rows / num_stages, flat, fill_);
  Int low = wave.offset[0], high = wave.offset[0];
  for (Int r = 0; r < num_rows; ++r) {
    low = std::min(low, wave.offset[r]);
    high = std::max(high, wave.offset[r] + wave.stride[r] * (num_mb - 1));
  }
  // a counting sort by key, then distribution to the devices
  start_.assign(high - low + 2, 0);
  for (Int r = 0; r < num_rows; ++r) {
    Int key = wave.offset[r] - low + 1;
    for (Int m = 0; m < num_mb; ++m, key += wave.stride[r]) ++start_[key];
  }
  for (Int k = 1; k < size_of(start_); ++k) start_[k] += start_[k - 1];
  row_.resize(num_rows * num_mb);
  microbatch_.resize(num_rows * num_mb);
  for (Int r = 0; r < num_rows; ++r) {
    Int key = wave.offset[r] - low;
    for (Int m = 0; m < num_mb; ++m, key += wave.stride[r]) {
      const Int at = start_[key]++;
      row_[at] = static_cast<std::int32_t>(r);
      microbatch_[at] = static_cast<std::int32_t>(m);
    }
  }
  for (Int i = 0; i < num_rows * num_mb; ++i) {
    const Int r = row_[i], m = microbatch_[i];
    Int s = r;
    while (s >= num_stages) s -= num_stages;  // faster than the remainder
    flat.set(fill_[p.device(s, m)]++, s, wave.kind[r], m);
  }
}

}  // namespace drlpp
