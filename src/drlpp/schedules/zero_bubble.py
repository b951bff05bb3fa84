"""Zero-bubble schedules: the backward pass is split in two, and W fills bubbles.

Source: Qi et al., "Zero bubble pipeline parallelism" (ICLR 2024). `zero_bubble` is ZB-H1 (torch: ZB1P), which has the
memory of 1F1B and a third of its bubble where F, I and W are equal, for any DAG of stages. `zbv` needs two stages per
device, placed in the shape of a V, and has no bubble then; its order is that of torch.distributed.pipelining.
"""

from __future__ import annotations

import numba
import numpy as np

from drlpp.schedules.orders import FORWARD, INPUT_GRAD, WEIGHT_GRAD, FlatSchedule, wave_schedule
from drlpp.schedules.placed import PlacedStages
from drlpp.schedules.waves import stage_depths


def zero_bubble(placed: PlacedStages) -> FlatSchedule:
    """1F1B in which W comes as many micro-batches after I as there are devices before the stage."""
    to_sink = stage_depths(placed).to_sink
    longest, num_stages = int(to_sink.max()), len(to_sink)
    stages = np.arange(num_stages)
    backward = 2 * (longest - 1 + to_sink)  # twice the keys of 1F1B, so that W fits between
    weight = backward + 4 * (longest - to_sink) + 1
    return wave_schedule(
        placed,
        stage=np.concatenate([stages, stages, stages]),
        kind=np.repeat(np.array([INPUT_GRAD, FORWARD, WEIGHT_GRAD]), num_stages),
        offset=np.concatenate([backward, 2 * (longest - to_sink), weight]),
        stride=np.full(3 * num_stages, 4),
    )


def is_v_shaped(placed: PlacedStages) -> bool:
    """Whether stages i and 2 p - 1 - i share a device, for p devices."""
    num_stages, p = len(placed.slot_off) - 1, len(placed.used)
    if len(placed.slot_device) > num_stages or num_stages != 2 * p:
        return False
    return bool((placed.slot_device == placed.slot_device[::-1]).all())


def zbv(placed: PlacedStages) -> FlatSchedule:
    """ZB-V. `is_v_shaped` says whether it applies."""
    return FlatSchedule(*_zbv(placed.slot_device, len(placed.used), placed.num_microbatches))


@numba.njit(cache=True)
def _append(arrays, i, num_microbatches, stage, kind, microbatch):  # type: ignore[no-untyped-def]
    """Adds an action unless its micro-batch does not exist; returns the next position."""
    if microbatch >= num_microbatches:
        return i
    arrays[0][i], arrays[1][i], arrays[2][i] = stage, kind, microbatch
    return i + 1


@numba.njit(cache=True)
def _zbv(stage_device, p, num_microbatches):  # type: ignore[no-untyped-def]
    """The order is made for at least the 2 p - 1 micro-batches that fill the pipeline; extra ones are left out."""
    filled = max(2 * p - 1, num_microbatches)
    per_device = 6 * num_microbatches
    offset = np.arange(p + 1) * per_device
    out = (
        np.empty(p * per_device, dtype=np.int32),
        np.empty(p * per_device, dtype=np.int8),
        np.empty(p * per_device, dtype=np.int32),
    )
    m = num_microbatches
    for rank in range(p):
        down, up = rank, 2 * p - 1 - rank  # the stage on the way down the V, and the one on the way up
        i = offset[stage_device[rank]]
        f_down, f_up, b_down, b_up = 0, 0, 0, 0
        for _ in range(2 * (p - rank) - 1):
            i = _append(out, i, m, down, FORWARD, f_down)
            f_down += 1
        for _ in range(rank):
            i = _append(out, i, m, up, FORWARD, f_up)
            i = _append(out, i, m, down, FORWARD, f_down)
            f_up += 1
            f_down += 1
        for _ in range(p - rank):
            i = _append(out, i, m, up, FORWARD, f_up)
            i = _append(out, i, m, up, INPUT_GRAD, b_up)
            i = _append(out, i, m, up, WEIGHT_GRAD, b_up)
            f_up += 1
            b_up += 1
        while f_up < f_down or f_down < filled:
            if f_down < filled:
                i = _append(out, i, m, down, FORWARD, f_down)
                f_down += 1
            i = _append(out, i, m, down, INPUT_GRAD, b_down)
            i = _append(out, i, m, down, WEIGHT_GRAD, b_down)
            i = _append(out, i, m, up, FORWARD, f_up)
            i = _append(out, i, m, up, INPUT_GRAD, b_up)
            i = _append(out, i, m, up, WEIGHT_GRAD, b_up)
            b_down += 1
            f_up += 1
            b_up += 1
        w_down, w_up = b_down, b_up
        for _ in range(rank):
            i = _append(out, i, m, down, INPUT_GRAD, b_down)
            i = _append(out, i, m, up, INPUT_GRAD, b_up)
            b_down += 1
            b_up += 1
        for _ in range(p - rank):
            i = _append(out, i, m, down, INPUT_GRAD, b_down)
            i = _append(out, i, m, down, WEIGHT_GRAD, w_down)
            b_down += 1
            w_down += 1
        for w in range(w_up, b_up):
            i = _append(out, i, m, up, WEIGHT_GRAD, w)
        for w in range(w_down, b_down):
            i = _append(out, i, m, down, WEIGHT_GRAD, w)
    return offset, out[0], out[1], out[2]
