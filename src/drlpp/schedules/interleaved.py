"""Interleaved schedules: p devices with n stages each, stage s on the (s mod p)-th device.

Interleaved 1F1B (Narayanan et al., "Efficient large-scale language model training on GPU clusters using Megatron-LM",
SC 2021) runs micro-batches in rounds of p and goes through its stages within a round; its zero-bubble form (Qi et al.,
"Zero bubble pipeline parallelism", ICLR 2024) splits the backward pass and delays W. The orders are those of
torch.distributed.pipelining, and are legal for any DAG of stages, since they are legal for a chain.
"""

from __future__ import annotations

import numba
import numpy as np

from drlpp.schedules.orders import BACKWARD, FORWARD, INPUT_GRAD, WEIGHT_GRAD, FlatSchedule
from drlpp.schedules.placed import PlacedStages


def is_interleaved(placed: PlacedStages) -> bool:
    """Whether the placement is a loop over the devices, more than once, with micro-batches in whole rounds."""
    num_stages, p = len(placed.slot_off) - 1, len(placed.used)
    if len(placed.slot_device) > num_stages or num_stages % p or num_stages == p:
        return False
    rounds = max(1, placed.num_microbatches // p)
    looped = placed.slot_device.reshape(-1, p)
    return bool((looped == looped[0]).all()) and placed.num_microbatches % rounds == 0


def interleaved_one_f_one_b(placed: PlacedStages) -> FlatSchedule:
    """Interleaved 1F1B. `is_interleaved` says whether it applies."""
    return FlatSchedule(*_interleaved(placed.slot_device, len(placed.used), placed.num_microbatches, False))


def interleaved_zero_bubble(placed: PlacedStages) -> FlatSchedule:
    """Interleaved 1F1B with split backward passes. `is_interleaved` says whether it applies."""
    return FlatSchedule(*_interleaved(placed.slot_device, len(placed.used), placed.num_microbatches, True))


@numba.njit(cache=True)
def _interleaved(stage_device, p, num_microbatches, split):  # type: ignore[no-untyped-def]
    n = len(stage_device) // p
    round_size = num_microbatches // max(1, num_microbatches // p)
    per_kind = n * num_microbatches
    per_device = per_kind * (3 if split else 2)
    offset = np.arange(p + 1) * per_device
    stage = np.empty(p * per_device, dtype=np.int32)
    kind = np.empty(p * per_device, dtype=np.int8)
    microbatch = np.empty(p * per_device, dtype=np.int32)
    for rank in range(p):
        i = offset[stage_device[rank]]
        warm_up = min((n - 1) * round_size + (1 if split else 2) * (p - 1 - rank), per_kind)
        num_f, num_b, num_w = 0, 0, 0
        while num_w < per_kind:
            # after the warm-up forward and backward passes take turns; W follows `rank` backward passes later
            if split and num_w < num_b and (num_b - num_w > rank or num_b == per_kind):
                action, k = WEIGHT_GRAD, num_w
                num_w += 1
            elif num_f < per_kind and num_f <= warm_up + num_b:
                action, k = FORWARD, num_f
                num_f += 1
            else:
                action, k = INPUT_GRAD if split else BACKWARD, num_b
                num_b += 1
                if not split:
                    num_w += 1
            chunk = (k // round_size) % n
            if action != FORWARD:
                chunk = n - 1 - chunk
            stage[i] = chunk * p + rank
            kind[i] = action
            microbatch[i] = (k // (round_size * n)) * round_size + k % round_size
            i += 1
    return offset, stage, kind, microbatch
