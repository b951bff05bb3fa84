"""Zero-bubble schedules: the backward pass is split in two, and W fills bubbles.

Source: Qi et al., "Zero bubble pipeline parallelism" (ICLR 2024). `zero_bubble` is ZB-H1 (torch: ZB1P), which has the
memory of 1F1B and a third of its bubble where F, I and W are equal, for any DAG of stages. `zbv` needs two stages per
device, placed in the shape of a V, and has no bubble then; its order is that of torch.distributed.pipelining.
"""

from __future__ import annotations

from drlpp.schedules.arena import filled, kernel, take
from drlpp.schedules.orders import FORWARD, INPUT_GRAD, WEIGHT_GRAD, empty_orders, wave


@kernel
def zero_bubble(arena, p, to_sink):  # type: ignore[no-untyped-def]
    """1F1B in which W comes as many micro-batches after I as there are devices before the stage."""
    num_stages, longest = len(to_sink), 0
    for s in range(num_stages):
        longest = max(longest, to_sink[s])
    kind = take(arena.ints, 3 * num_stages)[0]
    offset = take(arena.ints, 3 * num_stages)[0]
    for s in range(num_stages):
        backward = 2 * (longest - 1 + to_sink[s])  # twice the keys of 1F1B, so that W fits between
        kind[s], offset[s] = INPUT_GRAD, backward
        kind[num_stages + s], offset[num_stages + s] = FORWARD, 2 * (longest - to_sink[s])
        kind[2 * num_stages + s], offset[2 * num_stages + s] = WEIGHT_GRAD, backward + 4 * (longest - to_sink[s]) + 1
    return wave(arena, p, kind, offset, filled(arena.ints, 3 * num_stages, 4)[0])


@kernel
def is_v_shaped(p):  # type: ignore[no-untyped-def]
    """Whether stages i and 2 p - 1 - i share a device, for p devices."""
    num_stages = len(p.slot_off) - 1
    if len(p.slot_device) > num_stages or num_stages != 2 * len(p.used):
        return False
    for s in range(num_stages):  # noqa: SIM110  (compiled)
        if p.slot_device[s] != p.slot_device[num_stages - 1 - s]:
            return False
    return True


@kernel
def _append(flat, i, num_microbatches, stage, kind, microbatch):  # type: ignore[no-untyped-def]
    """Adds an action unless its micro-batch does not exist; returns the next position."""
    if microbatch >= num_microbatches:
        return i
    flat.stage[i], flat.kind[i], flat.microbatch[i] = stage, kind, microbatch
    return i + 1


@kernel
def zbv(arena, p):  # type: ignore[no-untyped-def]
    """ZB-V. `is_v_shaped` says whether it applies.

    The order is made for at least the 2 p - 1 micro-batches that fill the pipeline; extra ones are left out.
    """
    number, m = len(p.used), p.num_microbatches
    filled = max(2 * number - 1, m)
    flat, fill = empty_orders(arena, p, 3)
    for rank in range(number):
        down, up = rank, 2 * number - 1 - rank  # the stage on the way down the V, and the one on the way up
        i = fill[p.slot_device[rank]]
        f_down, f_up, b_down, b_up = 0, 0, 0, 0
        for _ in range(2 * (number - rank) - 1):
            i = _append(flat, i, m, down, FORWARD, f_down)
            f_down += 1
        for _ in range(rank):
            i = _append(flat, i, m, up, FORWARD, f_up)
            i = _append(flat, i, m, down, FORWARD, f_down)
            f_up += 1
            f_down += 1
        for _ in range(number - rank):
            i = _append(flat, i, m, up, FORWARD, f_up)
            i = _append(flat, i, m, up, INPUT_GRAD, b_up)
            i = _append(flat, i, m, up, WEIGHT_GRAD, b_up)
            f_up += 1
            b_up += 1
        while f_up < f_down or f_down < filled:
            if f_down < filled:
                i = _append(flat, i, m, down, FORWARD, f_down)
                f_down += 1
            i = _append(flat, i, m, down, INPUT_GRAD, b_down)
            i = _append(flat, i, m, down, WEIGHT_GRAD, b_down)
            i = _append(flat, i, m, up, FORWARD, f_up)
            i = _append(flat, i, m, up, INPUT_GRAD, b_up)
            i = _append(flat, i, m, up, WEIGHT_GRAD, b_up)
            b_down += 1
            f_up += 1
            b_up += 1
        w_down, w_up = b_down, b_up
        for _ in range(rank):
            i = _append(flat, i, m, down, INPUT_GRAD, b_down)
            i = _append(flat, i, m, up, INPUT_GRAD, b_up)
            b_down += 1
            b_up += 1
        for _ in range(number - rank):
            i = _append(flat, i, m, down, INPUT_GRAD, b_down)
            i = _append(flat, i, m, down, WEIGHT_GRAD, w_down)
            b_down += 1
            w_down += 1
        for w in range(w_up, b_up):
            i = _append(flat, i, m, up, WEIGHT_GRAD, w)
        for w in range(w_down, b_down):
            i = _append(flat, i, m, down, WEIGHT_GRAD, w)
    return flat
