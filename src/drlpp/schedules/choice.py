"""Which schedule is best for placed stages: makes the orders of all that are wanted and replays them; compiled.

The best is the fastest of those that fit the memory, else the one that exceeds it least. An order that cannot become
the best is not made: no schedule ends before a `lower_bound` of the work, and a list schedule is given up when it has
no time left. A list schedule is chosen among the runs of the list scheduler and the orders of all named schedules that
apply and split the backward pass as it does, so it is never worse than these.
"""

from __future__ import annotations

import math

from drlpp.schedules.arena import entry, filled, kernel, mark, release, take
from drlpp.schedules.interleaved import interleaved, is_interleaved
from drlpp.schedules.list_scheduler import SLACKS, list_order
from drlpp.schedules.orders import BACKWARD, FORWARD, INPUT_GRAD, WEIGHT_GRAD
from drlpp.schedules.replay import replay_into
from drlpp.schedules.waves import depths, gpipe, one_f_one_b
from drlpp.schedules.zero_bubble import is_v_shaped, zbv, zero_bubble

SPLIT_BACKWARD_COST = 0.05
"""A schedule with split backward passes has to save this part of the iteration to be chosen over one without: so much
longer than B take I + W of a stage of ordinary size on the CPU, which the simulator leaves out (docs/benchmarks.md)."""

NUM_SCHEDULES = 9
_EAGER_1F1B, _GPIPE, _ZERO_BUBBLE, _ZBV, _LIST, _SPLIT_LIST = 1, 2, 4, 6, 7, 8
# 1f1b, eager-1f1b, gpipe, interleaved-1f1b, zero-bubble, interleaved-zero-bubble, zbv, list, split-list
SPLITS_BACKWARD = (False, False, False, False, True, True, True, False, True)
_IS_INTERLEAVED = (False, False, False, True, False, True, False, False, False)
_IS_LIST = (False, False, False, False, False, False, False, True, True)
_LESS = 1.0 - 1e-12
"""Times that differ by less than this are equal but for rounding; then the schedule that comes first is chosen."""


@kernel
def applies(p, kind):  # type: ignore[no-untyped-def]
    """Whether a schedule can be made for stages so placed, and makes sense."""
    if kind == _ZBV:
        return is_v_shaped(p)
    if SPLITS_BACKWARD[kind]:
        some = False  # without time for weight gradients there is nothing to split off
        for i in range(len(p.slot_device)):
            some = some or p.action_s[WEIGHT_GRAD, i] != 0.0
        if not some:
            return False
    if _IS_INTERLEAVED[kind]:
        return is_interleaved(p)
    return True


@entry
def applicable(p, out):  # type: ignore[no-untyped-def]
    """Writes for every schedule whether it applies."""
    for kind in range(NUM_SCHEDULES):
        out[kind] = applies(p, kind)


@kernel
def _named_order(arena, p, kind, from_source, to_sink):  # type: ignore[no-untyped-def]
    if kind == _GPIPE:
        return gpipe(arena, p, from_source, to_sink)
    if _IS_INTERLEAVED[kind]:
        return interleaved(arena, p, SPLITS_BACKWARD[kind])
    if kind == _ZERO_BUBBLE:
        return zero_bubble(arena, p, to_sink)
    if kind == _ZBV:
        return zbv(arena, p)
    return one_f_one_b(arena, p, to_sink, 2 if kind == _EAGER_1F1B else 1)


@kernel
def _path_s(p, k, src, dst):  # type: ignore[no-untyped-def]
    """Least seconds of message k between two stages; 0 if they have replicas."""
    if p.slot_off[src + 1] - p.slot_off[src] > 1 or p.slot_off[dst + 1] - p.slot_off[dst] > 1:
        return 0.0
    u, v = p.slot_device[p.slot_off[src]], p.slot_device[p.slot_off[dst]]
    if u == v:
        return 0.0
    if p.message_s[k] >= 0.0:
        return p.message_s[k]
    a, b = p.host[u], p.host[v]
    if a == b:
        return p.message_bytes[k] / p.link_bandwidth[a] + p.link_latency_s[a]
    bandwidth = min(p.port_bandwidth[a], p.port_bandwidth[b])
    return p.message_bytes[k] / bandwidth + p.port_latency_s[a] + p.port_latency_s[b]


@kernel
def lower_bound(arena, p, split, work, after):  # type: ignore[no-untyped-def]
    """Seconds that an iteration takes at least, whatever the order.

    A device cannot begin before the shortest way of the first micro-batch to it, and when it is done with the backward
    pass of the last one the way back is left.

    Args:
        split: whether backward passes are split.
        work, after: ``[U]``, for the seconds that each device computes, and that at least pass when it has done so.
    """
    num_stages, num_devices = len(p.slot_off) - 1, len(p.used)
    back = INPUT_GRAD if split else BACKWARD
    head = filled(arena.reals, num_stages, 0.0)[0]
    tail = filled(arena.reals, num_stages, 0.0)[0]
    forward = filled(arena.reals, num_stages, math.inf)[0]
    backward = filled(arena.reals, num_stages, math.inf)[0]
    for s in range(num_stages):
        for i in range(p.slot_off[s], p.slot_off[s + 1]):
            forward[s] = min(forward[s], p.action_s[FORWARD, i])
            backward[s] = min(backward[s], p.action_s[back, i])
    for s in range(num_stages):
        for k in range(p.message_off[s], p.message_off[s + 1]):
            for j in range(p.dst_off[k], p.dst_off[k + 1]):
                t = p.dst[j]
                path = _path_s(p, k, s, t)
                if p.message_backward[k]:  # to an earlier stage, whose tail is known
                    tail[s] = max(tail[s], path + backward[t] + tail[t])
                else:
                    head[t] = max(head[t], head[s] + forward[s] + path)
        for k in range(p.message_off[s], p.message_off[s + 1]):
            if p.message_grad[k]:
                for j in range(p.dst_off[k], p.dst_off[k + 1]):
                    t = p.dst[j]
                    tail[t] = max(tail[t], _path_s(p, k, s, t) + backward[s] + tail[s])
    first = filled(arena.reals, num_devices, math.inf)[0]
    way_back = filled(arena.reals, num_devices, math.inf)[0]
    weights = filled(arena.reals, num_devices, 0.0)[0]
    for d in range(num_devices):
        work[d] = 0.0
    for s in range(num_stages):
        replicas = p.slot_off[s + 1] - p.slot_off[s]
        for r in range(min(replicas, p.num_microbatches)):
            i = p.slot_off[s] + r
            count = (p.num_microbatches - r + replicas - 1) // replicas
            d = p.slot_device[i]
            first[d] = min(first[d], head[s])
            way_back[d] = min(way_back[d], tail[s])
            work[d] += count * (p.action_s[FORWARD, i] + p.action_s[back, i])
            weights[d] += count * p.action_s[WEIGHT_GRAD, i]
    bound = 0.0
    for d in range(num_devices):
        after[d] = p.optimizer_s[d]
        if work[d] + weights[d] > 0.0:
            bound = max(bound, first[d] + work[d] + way_back[d])
            if split:
                work[d] += weights[d]
            else:
                after[d] = max(after[d], way_back[d])
            bound = max(bound, first[d] + work[d] + after[d])
    return bound


@kernel
def choose(arena, p, wanted, give_up_s, peak, order):  # type: ignore[no-untyped-def]
    """Chooses among the wanted schedules that apply; what the first one takes decides if the others are tried.

    Args:
        wanted: ``[NUM_SCHEDULES]``.
        give_up_s: if the first schedule fits and takes longer than this, no other is tried.
        peak: ``[U]``, for the peak memory.
        order: a `FlatSchedule` for the order, with room for it, or with ``[0]`` actions if it is not of interest.

    Returns:
        Which schedule (-1 if none applies), its seconds, and bytes over the memory of a device.
    """
    num_devices = len(p.used)
    best, best_score, best_time, best_over = -1, math.inf, math.inf, math.inf
    from_source, to_sink = depths(arena, p)
    bounds = filled(arena.reals, 2, -1.0)[0]  # without and with split backward passes; made when they are of use
    work_of = take(arena.reals, 2 * num_devices)[0]
    after_of = take(arena.reals, 2 * num_devices)[0]
    current = take(arena.reals, num_devices)[0]
    left = take(arena.reals, num_devices)[0]
    for kind in range(NUM_SCHEDULES):
        split = SPLITS_BACKWARD[kind]
        label = kind if wanted[kind] else _SPLIT_LIST if split else _LIST
        if not wanted[label] or not applies(p, kind):
            continue
        k = 1 if split else 0
        work = work_of[k * num_devices : (k + 1) * num_devices]
        after = after_of[k * num_devices : (k + 1) * num_devices]
        if bounds[k] < 0.0 and (best >= 0 or _IS_LIST[kind]):
            bounds[k] = lower_bound(arena, p, split, work, after)
        cost = 1.0 + SPLIT_BACKWARD_COST if split else 1.0
        for run in range(len(SLACKS) if _IS_LIST[kind] else 1):
            enough = best_score / cost * _LESS if best_over <= 0.0 else math.inf
            if bounds[k] >= enough:
                break
            marked = mark(arena)
            last, limited = 0.0, False
            if _IS_LIST[kind]:
                for d in range(num_devices):
                    left[d] = work[d]
                last, limited, flat = list_order(arena, p, to_sink, SLACKS[run], split, left, after, enough)
            else:
                flat = _named_order(arena, p, kind, from_source, to_sink)
            if last < enough:
                _, time = replay_into(arena, p, flat, current)
                over = 0.0
                for d in range(num_devices):
                    over = max(over, current[d] - p.memory_bytes[d])
                if over < best_over or (over == best_over and time * cost < best_score * _LESS):
                    best, best_score, best_time, best_over = label, time * cost, time, over
                    for d in range(num_devices):
                        peak[d] = current[d]
                    if len(order.stage) > 0:
                        for d in range(num_devices + 1):
                            order.offset[d] = flat.offset[d]
                        for i in range(len(flat.stage)):
                            order.stage[i] = flat.stage[i]
                            order.kind[i] = flat.kind[i]
                            order.microbatch[i] = flat.microbatch[i]
            release(arena, marked)
            if not limited:
                break  # more slack changes nothing
        if best_over <= 0.0 and best_time > give_up_s:
            break
    return best, best_time, best_over


@entry
def choose_one(arena, p, kind, peak, order):  # type: ignore[no-untyped-def]
    """`choose` with one schedule, without regard to the others."""
    wanted = filled(arena.ints, NUM_SCHEDULES, 0)[0]
    wanted[kind] = 1
    return choose(arena, p, wanted, math.inf, peak, order)[1]
