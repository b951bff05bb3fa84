"""Where to cut an order of the ops into the stages of given slots: costs, and the best cuts by dynamic programming.

The estimate of a step is that of a pipeline whose slowest part sets the pace: ``pace + sum of passes + late``.
- *pace*: the largest over stages of what its rounds after the first take: (rounds - 1) x compute of the slowest
  replica, or the transfers of the micro-batches after the first into it, or those through its host's port. Where memory
  does not suffice: with the forward pass again (recomputation), or slower with fewer micro-batches in flight,
  whichever is faster; a penalty if neither fits.
- *sum of passes*: one micro-batch forth and back through all stages and over all boundaries.
- *late*: by how much a gradient all-reduce ends after the last backward pass: that of a late stage runs while the
  earlier stages still compute.

For the steady state the pace is the largest load of a device per micro-batch, and little else counts.

`solve_cuts` minimises the estimate by a dynamic programme over (slot, position) that keeps one label per state: a good
heuristic, exact for the pace alone. The value that it gives then counts stages that run at the same time only once.
The policy takes the result as an anchor and decides itself (see `partitioner`).

Left out: sharing of links by other than neighbouring transfers, and tensors that skip stages (charged to every boundary
they cross).
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from drlpp.agent.slots import Slot, fastest_first, replica_classes
from drlpp.agent.tables import Floats, Ints, Tables
from drlpp.cluster import Cluster
from drlpp.cost import all_reduce_s
from drlpp.problem import PlanningProblem

CUT_OFFSETS = np.array([0, -1, 1, -2, 2, -3, 3, -4, 4, -6, 6])
"""Choices of a cut decision: positions relative to the anchor."""
NUM_CUT_FEATURES = 11
NUM_MEMORY_FEATURES = 4
_OVERFLOW = 20.0
_STEADY_WEIGHT = 1000.0
_LONGEST_PERIOD = 64
_BUFFERS_IN, _BUFFERS_OUT = 3.0, 2.0
"""Messages that a stage has buffers for, by the bytes of its two boundaries: one value ahead and two gradients that
were returned; two gradients that were received (see `schedules.memory`)."""
_BACKWARD = 2.0 / 3.0
# columns of `SlotArrays.numbers`
_ROUNDS, _CAPACITY, _ALPHA, _BETA, _IN_FLIGHT, _IN, _PORT_IN, _MEAN_IN, _LATENCY, _OUT, _PORT_OUT = range(11)


@dataclasses.dataclass(frozen=True)
class SlotArrays:
    """The slots of B episodes as arrays, padded to K.

    Attributes:
        num_slots: ``[B]``.
        slow_class: ``[B, K]`` class of the replica that takes longest for its micro-batches.
        numbers: ``[B, K, 11]`` micro-batches of that replica, memory of the smallest replica, all-reduce seconds (fixed
            and per byte), micro-batches in flight per replica that keep it busy (the mean; memory holds a whole number
            of them); into the slot, seconds per byte of what is busiest (see `_Path`), of ports alone, of one
            micro-batch, and the latency; out of it, seconds per byte of the first two kinds.
        steady: the objective is the steady state.
    """

    num_slots: Ints
    slow_class: Ints
    numbers: Floats
    steady: bool

    def select(self, rows: Ints) -> SlotArrays:
        """The arrays of some of the episodes."""
        return SlotArrays(self.num_slots[rows], self.slow_class[rows], self.numbers[rows], self.steady)


def slot_arrays(batch: Sequence[tuple[Slot, ...]], t: Tables, problem: PlanningProblem) -> SlotArrays:
    """Derives the arrays of the slots of B episodes."""
    width = max(len(slots) for slots in batch)
    num_slots = np.array([len(slots) for slots in batch])
    slow_class = np.zeros((len(batch), width), dtype=np.int64)
    numbers = np.zeros((len(batch), width, 11))
    steady = problem.objective == "steady-state"
    alone: dict[Slot, tuple[int, float, float, float, float]] = {}
    paths: dict[tuple[Slot, Slot], _Path] = {}
    for b, slots in enumerate(batch):
        after = _Path()
        for s in range(len(slots) - 1, -1, -1):
            slot = slots[s]
            if slot not in alone:
                alone[slot] = _alone(slot, t, problem.cluster, steady)
            slow_class[b, s], rounds, memory, alpha, beta = alone[slot]
            before = _Path()
            if s > 0:
                pair = slots[s - 1], slot
                if pair not in paths:
                    paths[pair] = _path(*pair, t, steady)
                before = paths[pair]
            in_flight = min(t.microbatches, len(slots) - s) / slot.replicas
            into = before.into, before.port, before.mean, before.latency_s
            numbers[b, s] = rounds, memory, alpha, beta, in_flight, *into, after.out, after.port
            after = before
    return SlotArrays(num_slots, slow_class, numbers, steady)


def _alone(slot: Slot, t: Tables, cluster: Cluster, steady: bool) -> tuple[int, float, float, float, float]:
    """What does not depend on the slots beside it: slow class, rounds, memory, all-reduce seconds (fixed, per byte)."""
    slow, rounds = _slowest(slot, t, steady)
    devices = [d for k, count in slot.parts for d in t.class_devices[k][:count]]  # of a class all are alike
    one, two = all_reduce_s(cluster, devices, 1e6), all_reduce_s(cluster, devices, 2e6)
    return slow, rounds, min(t.memory[k] for k, _ in slot.parts), 2 * one - two, (two - one) / 1e6


def _slowest(slot: Slot, t: Tables, steady: bool) -> tuple[int, float]:
    """The class of the replica that takes longest for its micro-batches of a step, and how many these are.

    In the steady state all replicas have the same number, which need not be whole.
    """
    first, worst = 0, (0.0, 0, 0.0)
    for k, count in fastest_first(slot, t):
        rounds = t.microbatches / slot.replicas if steady else math.ceil((t.microbatches - first) / slot.replicas)
        worst = max(worst, (rounds / t.speed[k], k, rounds))
        first += count
    return worst[1], worst[2]


@dataclasses.dataclass(frozen=True, slots=True)
class _Path:
    """From a slot to the next one: seconds per byte.

    Attributes:
        out, into: of what is busiest, averaged over micro-batches: the link or port; in the steady state the device
            that sends, and the one that receives.
        port: the same of ports alone; they are not part of the steady state.
        mean: of one micro-batch.
        latency_s: the longest.
    """

    out: float = 0.0
    into: float = 0.0
    port: float = 0.0
    mean: float = 0.0
    latency_s: float = 0.0


def _path(before: Slot, after: Slot, t: Tables, steady: bool) -> _Path:
    senders = replica_classes(before, (), t)
    receivers = replica_classes(after, senders, t)
    period = min(math.lcm(len(senders), len(receivers)), _LONGEST_PERIOD)
    links: dict[tuple[int, int], float] = defaultdict(float)
    ports: dict[tuple[str, int], float] = defaultdict(float)
    devices: dict[tuple[str, int], float] = defaultdict(float)
    total = latency = 0.0
    for m in range(period):
        i, j = m % len(senders), m % len(receivers)
        a, b = senders[i], receivers[j]
        seconds = 1.0 / float(t.bandwidth[a, b])
        devices["out", i] += seconds
        devices["in", j] += seconds
        if t.host[a] == t.host[b]:
            links[i, j] += seconds
        else:
            ports["out", int(t.host[a])] += seconds
            ports["in", int(t.host[b])] += seconds
        total += seconds
        latency = max(latency, float(t.latency_s[a, b]))
    port = max(ports.values(), default=0.0)
    out = into = max(port, max(links.values(), default=0.0))
    if steady:
        port = 0.0
        out, into = (max(s for (way, _), s in devices.items() if way == end) for end in ("out", "in"))
    return _Path(out / period, into / period, port / period, total / period, latency)


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """Prefix sums along the orders of B episodes.

    Attributes:
        orders: ``[B, n]``.
        time, forward: ``[B, K, n + 1]`` seconds on the slowest replica of each slot.
        params, resident, saved: ``[B, n + 1]`` bytes.
        live: ``[B, n + 1]`` bytes that cross each cut.
    """

    orders: Ints
    time: Floats
    forward: Floats
    params: Floats
    resident: Floats
    saved: Floats
    live: Floats


def prefixes(orders: Ints, slots: SlotArrays, t: Tables) -> Prefixes:
    """Sums along ``[B, n]`` orders."""
    by_slot = (slots.slow_class[:, :, None], orders[:, None, :])
    return Prefixes(
        orders=orders,
        time=_prefix(t.time_s[by_slot]),
        forward=_prefix(t.forward_s[by_slot]),
        params=_prefix(t.params[orders]),
        resident=_prefix(t.resident[orders]),
        saved=_prefix(t.saved[orders]),
        live=np.stack([t.live_bytes(order) for order in orders]),
    )


def _prefix(values: Floats) -> Floats:
    out = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, out=out[..., 1:])
    return out


@numba.njit(cache=True)
def _throttle(room, each, wanted):  # type: ignore[no-untyped-def]
    """How many times as long a micro-batch takes if only as many are in flight as there is room for."""
    if room < each:
        return np.inf
    return max(1.0, wanted / (room // each)) if each > 0.0 else 1.0


@numba.njit(cache=True)
def _stage(s, i, j, slot, steady, time, forward, params, resident, saved, live, m):  # type: ignore[no-untyped-def]
    """What ops i..j-1 cost in slot s.

    Pace, pass, all-reduce, transfer in; memory fraction without and with recomputation; gain of recomputation (log).
    """
    n = slot[s]
    compute = time[s, j] - time[s, i]
    busy_in, busy_out = live[i] * n[_IN], live[j] * n[_OUT]
    into = live[i] * n[_MEAN_IN] + n[_LATENCY]
    held = saved[j] - saved[i]
    kept = live[i] if s > 0 else 0.0
    base = resident[j] - resident[i] + _BUFFERS_IN * kept + _BUFFERS_OUT * live[j]
    in_flight = math.ceil(n[_IN_FLIGHT])
    without = (base + held * in_flight) / n[_CAPACITY]
    with_it = (base + kept * in_flight + held) / n[_CAPACITY]
    penalty, throttle = 0.0, 1.0
    again = compute + forward[s, j] - forward[s, i]
    gain = -math.log(max(again, 1e-30) / max(compute, 1e-30))
    if without > 1.0:
        # fewer micro-batches in flight, or the forward pass again, or both
        room = n[_CAPACITY] - base
        throttle, slower = _throttle(room, held, n[_IN_FLIGHT]), _throttle(room - held, kept, n[_IN_FLIGHT])
        gain += (
            math.log(throttle / slower)
            if slower < np.inf
            else (-9.0 if throttle < np.inf or without <= with_it else 9.0)
        )
        if gain > 0.0:
            compute, throttle = again, slower
        if throttle == np.inf:
            throttle = 1.0
            penalty = _OVERFLOW * compute * n[_ROUNDS] * min(without, with_it)
    weight_bytes = params[j] - params[i]
    reduce_s = n[_ALPHA] + n[_BETA] * weight_bytes if weight_bytes > 0.0 else 0.0
    if steady:
        pace = compute * n[_ROUNDS] / m + 2.0 * (busy_in + busy_out) + reduce_s / m
    else:
        port = live[i] * n[_PORT_IN] + live[j] * n[_PORT_OUT]
        pace = max(compute * throttle * (n[_ROUNDS] - 1.0), max(busy_in, port) * (m - 1.0))
    return pace + penalty, compute + 2.0 * into, reduce_s, busy_in, without, with_it, gain


@numba.njit(cache=True)
def _solve_one(  # type: ignore[no-untyped-def]
    num_slots, slot, steady, time, forward, params, resident, saved, live, m, order, succ_ptr, succ, most, cuts, found,
):  # fmt: skip
    n = len(params) - 1
    stride = max(1, min(n // most, n // num_slots))
    last_place = -(-n // stride)  # place x is position min(x * stride, n)
    weight = _STEADY_WEIGHT if steady else 1.0
    pace = np.full((num_slots, last_place + 1), np.inf)
    total = np.full((num_slots, last_place + 1), np.inf)
    late = np.zeros((num_slots, last_place + 1))
    back = np.zeros((num_slots, last_place + 1), dtype=np.int64)
    for x in range(1, last_place + 2 - num_slots):
        j = min(x * stride, n)
        own, once, reduce_s, _, _, _, _ = _stage(0, 0, j, slot, steady, time, forward, params, resident, saved, live, m)
        pace[0, x], total[0, x], late[0, x] = own, once, reduce_s
    for s in range(1, num_slots):
        least = 1.0 + (weight * slot[s, _ROUNDS] / m if steady else slot[s, _ROUNDS] - 1.0)
        for x in range(last_place if s == num_slots - 1 else s + 1, last_place + 2 - num_slots + s):
            j = min(x * stride, n)
            best = np.inf
            for y in range(x - 1, s - 1, -1):
                i = y * stride
                if least * (time[s, j] - time[s, i]) >= best:
                    break
                if pace[s - 1, y] == np.inf:
                    continue
                own, once, reduce_s, _, _, _, _ = _stage(
                    s, i, j, slot, steady, time, forward, params, resident, saved, live, m
                )
                high = max(pace[s - 1, y], own)
                summed = total[s - 1, y] + once
                # the earlier stages still run backward, two thirds of their pass, when this one is done
                after = max(late[s - 1, y], reduce_s - _BACKWARD * total[s - 1, y])
                key = weight * high + summed + (0.0 if steady else after)
                if key < best:
                    best = key
                    pace[s, x], total[s, x], late[s, x], back[s, x] = high, summed, after, y
    cuts[num_slots] = n
    place = last_place
    for s in range(num_slots - 1, 0, -1):
        place = back[s, place]
        cuts[s] = place * stride
    cuts[0] = 0
    last = num_slots - 1
    found[0] = pace[last, last_place]
    if steady:
        found[1] = found[0]
        return
    # stages that do not wait for each other run at the same time: of the sum of passes the longest path is left
    stage = np.empty(n, dtype=np.int64)
    for s in range(num_slots):
        for i in range(cuts[s], cuts[s + 1]):
            stage[order[i]] = s
    ready, longest = np.zeros(num_slots), 0.0
    for s in range(num_slots):
        _, once, _, _, _, _, _ = _stage(
            s, cuts[s], cuts[s + 1], slot, steady, time, forward, params, resident, saved, live, m
        )
        longest = max(longest, ready[s] + once)
        for i in range(cuts[s], cuts[s + 1]):
            for x in range(succ_ptr[order[i]], succ_ptr[order[i] + 1]):
                after_this = stage[succ[x]]
                if after_this > s:
                    ready[after_this] = max(ready[after_this], ready[s] + once)
    found[1] = found[0] + longest + max(late[last, last_place], 0.0)


@numba.njit(cache=True)
def _solve(  # type: ignore[no-untyped-def]
    num_slots, slots, steady, time, forward, params, resident, saved, live, m, orders, succ_ptr, succ, most, cuts,
    found,
):  # fmt: skip
    for b in range(len(num_slots)):
        _solve_one(
            num_slots[b], slots[b], steady, time[b], forward[b], params[b], resident[b], saved[b], live[b], m,
            orders[b], succ_ptr, succ, most, cuts[b], found[b],
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Anchors:
    """The best cuts of B episodes by the estimate.

    Attributes:
        cuts: ``[B, K + 1]``: stage s is ``order[cuts[s] : cuts[s + 1]]`` (entries after the last slot are 0).
        pace: ``[B]`` the largest pace of a stage, seconds.
        value: ``[B]`` the estimate of the objective, seconds: of the stages' passes only the longest path counts.
    """

    cuts: Ints
    pace: Floats
    value: Floats


def solve_cuts(slots: SlotArrays, p: Prefixes, t: Tables, places: int | None = None) -> Anchors:
    """The best cuts of every episode by the estimate.

    Args:
        places: consider cuts at about so many places only, evenly spaced; None for all.
    """
    cuts = np.zeros((len(slots.num_slots), slots.slow_class.shape[1] + 1), dtype=np.int64)
    found = np.zeros((len(slots.num_slots), 2))
    _solve(
        slots.num_slots, slots.numbers, slots.steady, p.time, p.forward, p.params, p.resident, p.saved, p.live,
        t.microbatches, p.orders, t.succ_ptr, t.succ, places or t.num_ops, cuts, found,
    )  # fmt: skip
    return Anchors(cuts, found[:, 0], found[:, 1])


@numba.njit(cache=True)
def _choices(  # type: ignore[no-untyped-def]
    c,
    num_slots, slots, steady, time, forward, params, resident, saved, live, m,
    offsets, anchors, pace, value, cuts, features, mask,
):  # fmt: skip
    for b in range(len(num_slots)):
        last = num_slots[b]
        n = params.shape[1] - 1
        if c >= last:
            mask[b, 0] = True
            continue
        low, high = cuts[b, c - 1] + 1, n - (last - c)
        anchor = min(max(anchors[b, c], low), high)
        top, whole = pace[b], max(value[b], 1e-30)
        mean_live = max(live[b].mean(), 1e-30)
        fits = False
        for k in range(len(offsets)):
            at = anchor + offsets[k]
            if at < low or at > high:
                continue
            end = max(anchors[b, c + 1], at + 1)
            left = _stage(
                c - 1, cuts[b, c - 1], at, slots[b], steady, time[b], forward[b], params[b], resident[b], saved[b],
                live[b], m,
            )  # fmt: skip
            right = _stage(
                c, at, end, slots[b], steady, time[b], forward[b], params[b], resident[b], saved[b], live[b], m
            )
            f = features[b, k]
            f[0] = offsets[k] / 4.0
            f[1] = abs(offsets[k]) / 4.0
            f[2] = 1.0 if offsets[k] == 0 else 0.0
            f[3] = min((left[0] - top) / whole, 2.0)
            f[4] = min((right[0] - top) / whole, 2.0)
            f[5] = min((max(max(left[0], right[0]) - top, 0.0) + left[1] + right[1]) / whole, 2.0)
            f[6] = min(m * right[3] / whole, 2.0)
            f[7] = min(min(left[4], left[5]), 2.0)
            f[8] = min(min(right[4], right[5]), 2.0)
            f[9] = math.log(live[b, at] / mean_live + 1e-3) / 3.0
            f[10] = c / last
            mask[b, k] = True
            if min(left[4], left[5]) <= 1.0:
                fits = True
        for k in range(len(offsets)):
            if fits and mask[b, k] and features[b, k, 7] > 1.0:
                mask[b, k] = False


def cut_choices(
    c: int, slots: SlotArrays, p: Prefixes, microbatches: int, anchors: Anchors, cuts: Ints
) -> tuple[Floats, NDArray[np.bool_]]:
    """Features ``[B, O, NUM_CUT_FEATURES]`` and mask ``[B, O]`` of the choices for cut `c` (before slot `c`).

    A choice is legal if every stage keeps an op; where some choice lets the stage on the left fit its memory, those
    that do not are masked. Episodes with fewer slots have only choice 0. `cuts` holds the cuts made so far.
    """
    batch = len(slots.num_slots)
    features = np.zeros((batch, len(CUT_OFFSETS), NUM_CUT_FEATURES))
    mask = np.zeros((batch, len(CUT_OFFSETS)), dtype=bool)
    _choices(
        c, slots.num_slots, slots.numbers, slots.steady, p.time, p.forward, p.params, p.resident, p.saved, p.live,
        microbatches, CUT_OFFSETS, anchors.cuts, anchors.pace, anchors.value, cuts, features, mask,
    )  # fmt: skip
    return features, mask


def make_cuts(c: int, slots: SlotArrays, anchors: Ints, cuts: Ints, choice: Ints, num_ops: int) -> None:
    """Writes the chosen positions of cut `c` into `cuts`."""
    active = slots.num_slots > c
    low, high = cuts[:, c - 1] + 1, num_ops - (slots.num_slots - c)
    at = np.minimum(np.maximum(anchors[:, c], low), high) + CUT_OFFSETS[choice]
    cuts[active, c] = at[active]


@numba.njit(cache=True)
def _memory(num_slots, slots, steady, time, forward, params, resident, saved, live, m, cuts, features):  # type: ignore[no-untyped-def]
    for b in range(len(num_slots)):
        for s in range(num_slots[b]):
            i, j = cuts[b, s], cuts[b, s + 1]
            x = _stage(s, i, j, slots[b], steady, time[b], forward[b], params[b], resident[b], saved[b], live[b], m)
            features[b, s, 0] = min(x[4], 4.0)
            features[b, s, 1] = min(x[5], 4.0)
            features[b, s, 3] = min(max(x[6], -2.0), 2.0)
            features[b, s, 2] = (forward[b, s, j] - forward[b, s, i]) / max(time[b, s, j] - time[b, s, i], 1e-30)


def stage_memory(slots: SlotArrays, p: Prefixes, microbatches: int, cuts: Ints) -> Floats:
    """``[B, K, NUM_MEMORY_FEATURES]`` of each stage.

    The features are the fraction of the device's memory without and with recomputation, the part of the time that
    recomputation repeats, and the logarithm of what the estimate says that recomputation gains (clipped to 2).
    """
    features = np.zeros((*slots.slow_class.shape, NUM_MEMORY_FEATURES))
    _memory(
        slots.num_slots, slots.numbers, slots.steady, p.time, p.forward, p.params, p.resident, p.saved, p.live,
        microbatches, cuts, features,
    )  # fmt: skip
    return features
