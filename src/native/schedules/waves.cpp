#include "schedules/waves.h"

#include <algorithm>

namespace drlpp {

namespace {

// Calls `act(t)` for every receiving stage t of the messages of a stage in one phase.
template <class Act>
void for_receivers(const PlacedStages& p, Int stage, bool backward, Act act) {
  for (Int k = p.message_off[stage]; k < p.message_off[stage + 1]; ++k) {
    if ((p.message_backward[k] != 0) != backward) continue;
    for (Int j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) act(p.dst[j]);
  }
}

Int largest(const Ints& values) {
  Int most = 0;
  for (Int value : values) most = std::max(most, value);
  return most;
}

// Rows of B and F, with stride `stride`; where keys are equal B comes first, since it frees memory.
Int forward_and_backward(const Depths& depths, Int stride, Wave& wave) {
  const Int slots = size_of(depths.to_sink);
  wave.resize(2 * slots);
  for (Int i = 0; i < slots; ++i) {
    wave.kind[i] = BACKWARD;
    wave.kind[slots + i] = FORWARD;
    wave.stride[i] = wave.stride[slots + i] = stride;
  }
  return slots;
}

}  // namespace

void Depths::measure(const PlacedStages& p) {
  const Int stages = p.num_stages();
  from_source.assign(stages, 0);
  to_sink.assign(p.num_slots(), 0);
  longest_.assign(stages, 0);
  for (Int s = 0; s < stages; ++s) {
    for_receivers(p, s, true, [&](Int t) {
      from_source[s] = std::max(from_source[s], from_source[t] + p.replicas(t));
    });
    const Int after = from_source[s] + p.replicas(s);
    for_receivers(p, s, false, [&](Int t) { from_source[t] = std::max(from_source[t], after); });
  }
  for (Int s = stages - 1; s >= 0; --s) {
    Int below = longest_[s];  // from messages of the backward pass, whose sources are higher
    for_receivers(p, s, false, [&](Int t) { below = std::max(below, longest_[t]); });
    for (Int i = p.slot_off[s]; i < p.slot_off[s + 1]; ++i) {
      to_sink[i] = below + p.round(s) / p.turns(i);
      longest_[s] = std::max(longest_[s], to_sink[i]);
    }
    for_receivers(p, s, true, [&](Int t) { longest_[t] = std::max(longest_[t], longest_[s]); });
  }
}

void gpipe(const PlacedStages& p, const Depths& depths, Wave& wave) {
  const Int slots = forward_and_backward(depths, 1, wave), longest = largest(depths.from_source);
  for (Int s = 0; s < p.num_stages(); ++s) {
    for (Int i = p.slot_off[s]; i < p.slot_off[s + 1]; ++i) {
      wave.offset[i] = longest + p.num_microbatches + depths.to_sink[i];
      wave.offset[slots + i] = depths.from_source[s];
    }
  }
}

void one_f_one_b(const Depths& depths, Int eagerness, Wave& wave) {
  const Int slots = forward_and_backward(depths, 2, wave), longest = largest(depths.to_sink);
  for (Int i = 0; i < slots; ++i) {
    wave.offset[i] = longest - 1 + depths.to_sink[i];
    wave.offset[slots + i] = longest - eagerness * depths.to_sink[i];
  }
}

void zero_bubble(const Depths& depths, Wave& wave) {
  const Int slots = size_of(depths.to_sink), longest = largest(depths.to_sink);
  wave.resize(3 * slots);
  for (Int i = 0; i < slots; ++i) {
    const Int backward = 2 * (longest - 1 + depths.to_sink[i]);  // twice the keys of 1F1B, so that W fits between
    wave.kind[i] = INPUT_GRAD;
    wave.offset[i] = backward;
    wave.kind[slots + i] = FORWARD;
    wave.offset[slots + i] = 2 * (longest - depths.to_sink[i]);
    wave.kind[2 * slots + i] = WEIGHT_GRAD;
    wave.offset[2 * slots + i] = backward + 4 * (longest - depths.to_sink[i]) + 1;
  }
  std::fill(wave.stride.begin(), wave.stride.end(), 4);
}

}  // namespace drlpp
