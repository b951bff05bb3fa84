// The steady-state load of each device. The rules are those of `cost/device_loads.py`.
#pragma once

#include "cost/placed_stages.h"

namespace drlpp {

// Transfers are averaged over at most this many micro-batches.
constexpr Int LONGEST_PERIOD = 10'000;

// Micro-batches after which the replicas of two stages meet as before: the least common multiple of their rounds.
Int common_period(Int period, Int round);

// Writes the [U] seconds per micro-batch of each used device.
void device_loads(const PlacedStages& p, Reals& load);

}  // namespace drlpp
