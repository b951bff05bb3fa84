// Schedules for several stages per device. The orders are those of torch.distributed.pipelining, and are legal for any
// DAG of stages, since they are legal for a chain.
//
// Interleaved: p devices with n stages each, stage s on the (s mod p)-th device. Interleaved 1F1B (Narayanan et al.,
// "Efficient large-scale language model training on GPU clusters using Megatron-LM", SC 2021) runs micro-batches in
// rounds of p and goes through its stages within a round; its zero-bubble form (Qi et al., ICLR 2024) splits the
// backward pass and delays W.
//
// V: two stages per device, i and 2 p - 1 - i; ZB-V (Qi et al., ICLR 2024) has no bubble if F, I and W are equal.
#pragma once

#include "schedules/orders.h"

namespace drlpp {

// Whether the placement is a loop over the devices, more than once, with micro-batches in whole rounds.
bool is_interleaved(const PlacedStages& p);

// Interleaved 1F1B, with split backward passes if asked; for placements that are interleaved.
void interleaved(const PlacedStages& p, bool split, FlatSchedule& flat, Ints& fill);

// Whether stages i and 2 p - 1 - i share a device, for p devices.
bool is_v_shaped(const PlacedStages& p);

// ZB-V, for placements in the shape of a V. The order is made for at least the 2 p - 1 micro-batches that fill the
// pipeline; extra ones are left out.
void zbv(const PlacedStages& p, FlatSchedule& flat, Ints& fill);

}  // namespace drlpp
