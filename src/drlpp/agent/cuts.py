"""Where to cut an order of the ops into the stages of given slots: costs, and the best cuts by dynamic programming.

The cost of a stage is an estimate of what it adds per micro-batch to the step: compute of the slowest replica (with
the forward pass again where memory asks for recomputation), or the transfer into it if that takes longer, plus the
gradient all-reduce spread over the micro-batches. Memory that still does not fit adds a penalty that grows with it.

`solve_cuts` minimises ``passes x largest cost + sum of times`` by a dynamic programme over (slot, position) that keeps
one label per state: exact for the largest cost alone, a good heuristic for the sum. The policy takes the result as an
anchor and decides itself (see `partitioner`).

Left out: sharing of links by several transfers, and tensors that skip stages (charged to every boundary they cross).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numba
import numpy as np

from drlpp.agent.slots import Slot, fastest_first, slot_devices
from drlpp.agent.tables import Floats, Ints, Tables
from drlpp.cluster import Cluster
from drlpp.cost import all_reduce_s

CUT_OFFSETS = np.array([0, -1, 1, -2, 2, -3, 3, -4, 4, -6, 6])
"""Choices of a cut decision: positions relative to the anchor."""
NUM_CUT_FEATURES = 11
NUM_MEMORY_FEATURES = 3
_OVERFLOW = 20.0
# columns of `SlotArrays.numbers`
_SHARE, _CAPACITY, _ALPHA, _BETA, _BANDWIDTH, _LATENCY, _IN_FLIGHT, _REPLICAS = range(8)


@dataclasses.dataclass(frozen=True)
class SlotArrays:
    """The slots of B episodes as arrays, padded to K.

    Attributes:
        num_slots: ``[B]``.
        slow_class: ``[B, K]`` class of the replica that takes longest for its micro-batches.
        numbers: ``[B, K, 8]`` share of micro-batches per replica, memory of the smallest replica, all-reduce seconds
            (fixed and per byte), bandwidth and latency into the slot, micro-batches in flight, replicas.
    """

    num_slots: Ints
    slow_class: Ints
    numbers: Floats


def slot_arrays(batch: Sequence[tuple[Slot, ...]], t: Tables, cluster: Cluster) -> SlotArrays:
    """Derives the arrays of the slots of B episodes."""
    width = max(len(slots) for slots in batch)
    num_slots = np.array([len(slots) for slots in batch])
    slow_class = np.zeros((len(batch), width), dtype=np.int64)
    numbers = np.zeros((len(batch), width, 8))
    reduce_cache: dict[tuple[int, ...], tuple[float, float]] = {}
    m = t.microbatches
    for b, slots in enumerate(batch):
        devices = slot_devices(slots, t)
        for s, slot in enumerate(slots):
            classes = [k for k, _ in slot.parts]
            slow_class[b, s], rounds = _slowest(slot, t)
            if devices[s] not in reduce_cache:
                one, two = all_reduce_s(cluster, devices[s], 1e6), all_reduce_s(cluster, devices[s], 2e6)
                reduce_cache[devices[s]] = (2 * one - two, (two - one) / 1e6)
            alpha, beta = reduce_cache[devices[s]]
            bandwidth, latency = (1e30, 0.0) if s == 0 else _path(slots[s - 1], slot, t)
            replicas = slot.replicas
            numbers[b, s] = (
                rounds / m,
                min(t.memory[k] for k in classes),
                alpha,
                beta,
                bandwidth,
                latency,
                math.ceil(min(m, len(slots) - s) / replicas),
                replicas,
            )
    return SlotArrays(num_slots, slow_class, numbers)


def _slowest(slot: Slot, t: Tables) -> tuple[int, int]:
    """The class of the replica that takes longest for its micro-batches of a step, and how many these are."""
    first, worst = 0, (0.0, 0, 0)
    for k, count in fastest_first(slot, t):
        rounds = math.ceil((t.microbatches - first) / slot.replicas)
        worst = max(worst, (rounds / t.speed[k], k, rounds))
        first += count
    return worst[1], worst[2]


def _path(before: Slot, after: Slot, t: Tables) -> tuple[float, float]:
    """Bandwidth of all channels between two slots together, and the longest latency."""
    pairs = [(a, b) for a, _ in before.parts for b, _ in after.parts]
    hosts_before, hosts_after = ({int(t.host[k]) for k, _ in slot.parts} for slot in (before, after))
    if len(hosts_before | hosts_after) == 1:
        channels = max(before.replicas, after.replicas)
    else:
        channels = min(len(hosts_before), len(hosts_after))
    return min(t.bandwidth[a, b] for a, b in pairs) * channels, max(t.latency_s[a, b] for a, b in pairs)


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """Prefix sums along the orders of B episodes.

    Attributes:
        time, forward: ``[B, K, n + 1]`` seconds on the slowest replica of each slot.
        params, resident, saved: ``[B, n + 1]`` bytes.
        live: ``[B, n + 1]`` bytes that cross each cut.
    """

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
def _stage(s, i, j, slot, time, forward, params, resident, saved, live, m):  # type: ignore[no-untyped-def]
    """(cost, compute, transfer in, memory fraction without and with recomputation) of ops i..j-1 in slot s."""
    n = slot[s]
    compute = time[s, j] - time[s, i]
    comm = 0.0 if s == 0 else live[i] / n[_BANDWIDTH] + n[_LATENCY]
    held = saved[j] - saved[i]
    base = resident[j] - resident[i]
    without = (base + held * n[_IN_FLIGHT]) / n[_CAPACITY]
    kept = live[i] if s > 0 else 0.0
    with_it = (base + kept * n[_IN_FLIGHT] + held) / n[_CAPACITY]
    penalty = 0.0
    if without > 1.0:
        again = forward[s, j] - forward[s, i]
        if with_it < without:
            compute += again
        if with_it > 1.0:
            penalty = _OVERFLOW * compute * min(with_it, without)
    weight_bytes = params[j] - params[i]
    reduce_s = n[_ALPHA] + n[_BETA] * weight_bytes if weight_bytes > 0.0 else 0.0
    cost = max(compute * n[_SHARE], comm) + reduce_s / m + penalty
    return cost, compute, comm, without, with_it


@numba.njit(cache=True)
def _solve_one(num_slots, slot, time, forward, params, resident, saved, live, m, passes, cuts):  # type: ignore[no-untyped-def]
    n = len(params) - 1
    worst = np.full((num_slots, n + 1), np.inf)
    total = np.full((num_slots, n + 1), np.inf)
    back = np.zeros((num_slots, n + 1), dtype=np.int64)
    for j in range(1, n + 2 - num_slots):
        cost, compute, comm, _, _ = _stage(0, 0, j, slot, time, forward, params, resident, saved, live, m)
        worst[0, j], total[0, j] = cost, compute
    for s in range(1, num_slots):
        share = slot[s, _SHARE]
        last = s == num_slots - 1
        for j in range(n if last else s + 1, n + 2 - num_slots + s):
            best = np.inf
            for i in range(j - 1, s - 1, -1):
                if passes * (time[s, j] - time[s, i]) * share >= best:
                    break
                before = worst[s - 1, i]
                if before == np.inf:
                    continue
                cost, compute, comm, _, _ = _stage(s, i, j, slot, time, forward, params, resident, saved, live, m)
                high = max(before, cost)
                summed = total[s - 1, i] + compute + 2.0 * comm
                key = passes * high + summed
                if key < best:
                    best = key
                    worst[s, j], total[s, j], back[s, j] = high, summed, i
    cuts[num_slots] = n
    j = n
    for s in range(num_slots - 1, 0, -1):
        j = back[s, j]
        cuts[s] = j
    cuts[0] = 0
    return worst[num_slots - 1, n]


@numba.njit(cache=True)
def _solve(num_slots, slots, time, forward, params, resident, saved, live, m, passes, cuts, bottleneck):  # type: ignore[no-untyped-def]
    for b in range(len(num_slots)):
        bottleneck[b] = _solve_one(
            num_slots[b], slots[b], time[b], forward[b], params[b], resident[b], saved[b], live[b], m, passes, cuts[b]
        )


def solve_cuts(slots: SlotArrays, p: Prefixes, microbatches: int, passes: float) -> tuple[Ints, Floats]:
    """The best cuts of every episode by the estimate.

    Args:
        passes: weight of the largest cost against the sum of times: micro-batches - 1 for the iteration time.

    Returns:
        ``[B, K + 1]`` positions: stage s is ``order[cuts[s] : cuts[s + 1]]`` (entries after the last slot are 0), and
        ``[B]`` the largest cost in seconds per micro-batch.
    """
    cuts = np.zeros((len(slots.num_slots), slots.slow_class.shape[1] + 1), dtype=np.int64)
    bottleneck = np.zeros(len(slots.num_slots))
    _solve(
        slots.num_slots, slots.numbers, p.time, p.forward, p.params, p.resident, p.saved, p.live,
        microbatches, passes, cuts, bottleneck,
    )  # fmt: skip
    return cuts, bottleneck


@numba.njit(cache=True)
def _choices(  # type: ignore[no-untyped-def]
    c,
    num_slots,
    slots,
    time,
    forward,
    params,
    resident,
    saved,
    live,
    m,
    offsets,
    anchors,
    bottleneck,
    cuts,
    features,
    mask,
):
    for b in range(len(num_slots)):
        last = num_slots[b]
        n = params.shape[1] - 1
        if c >= last:
            mask[b, 0] = True
            continue
        low, high = cuts[b, c - 1] + 1, n - (last - c)
        anchor = min(max(anchors[b, c], low), high)
        top = max(bottleneck[b], 1e-30)
        mean_live = max(live[b].mean(), 1e-30)
        fits = False
        for k in range(len(offsets)):
            at = anchor + offsets[k]
            if at < low or at > high:
                continue
            end = max(anchors[b, c + 1], at + 1)
            left = _stage(
                c - 1, cuts[b, c - 1], at, slots[b], time[b], forward[b], params[b], resident[b], saved[b], live[b], m
            )
            right = _stage(c, at, end, slots[b], time[b], forward[b], params[b], resident[b], saved[b], live[b], m)
            f = features[b, k]
            f[0] = offsets[k] / 4.0
            f[1] = abs(offsets[k]) / 4.0
            f[2] = 1.0 if offsets[k] == 0 else 0.0
            f[3] = min(left[0] / top - 1.0, 2.0)
            f[4] = min(right[0] / top - 1.0, 2.0)
            f[5] = min(max(left[0], right[0]) / top - 1.0, 2.0)
            f[6] = min(right[2] / top, 2.0)
            f[7] = min(min(left[3], left[4]), 2.0)
            f[8] = min(min(right[3], right[4]), 2.0)
            f[9] = math.log(live[b, at] / mean_live + 1e-3) / 3.0
            f[10] = c / last
            mask[b, k] = True
            if min(left[3], left[4]) <= 1.0:
                fits = True
        for k in range(len(offsets)):
            if fits and mask[b, k] and features[b, k, 7] > 1.0:
                mask[b, k] = False


def cut_choices(
    c: int, slots: SlotArrays, p: Prefixes, microbatches: int, anchors: Ints, bottleneck: Floats, cuts: Ints
) -> tuple[Floats, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """Features ``[B, O, NUM_CUT_FEATURES]`` and mask ``[B, O]`` of the choices for cut `c` (before slot `c`).

    A choice is legal if every stage keeps an op; where some choice lets the stage on the left fit its memory, those
    that do not are masked. Episodes with fewer slots have only choice 0. `cuts` holds the cuts made so far.
    """
    batch = len(slots.num_slots)
    features = np.zeros((batch, len(CUT_OFFSETS), NUM_CUT_FEATURES))
    mask = np.zeros((batch, len(CUT_OFFSETS)), dtype=bool)
    _choices(
        c, slots.num_slots, slots.numbers, p.time, p.forward, p.params, p.resident, p.saved, p.live,
        microbatches, CUT_OFFSETS, anchors, bottleneck, cuts, features, mask,
    )  # fmt: skip
    return features, mask


def make_cuts(c: int, slots: SlotArrays, anchors: Ints, cuts: Ints, choice: Ints, num_ops: int) -> None:
    """Writes the chosen positions of cut `c` into `cuts`."""
    active = slots.num_slots > c
    low, high = cuts[:, c - 1] + 1, num_ops - (slots.num_slots - c)
    at = np.minimum(np.maximum(anchors[:, c], low), high) + CUT_OFFSETS[choice]
    cuts[active, c] = at[active]


@numba.njit(cache=True)
def _memory(num_slots, slots, time, forward, params, resident, saved, live, m, cuts, features):  # type: ignore[no-untyped-def]
    for b in range(len(num_slots)):
        for s in range(num_slots[b]):
            i, j = cuts[b, s], cuts[b, s + 1]
            x = _stage(s, i, j, slots[b], time[b], forward[b], params[b], resident[b], saved[b], live[b], m)
            features[b, s, 0] = min(x[3], 4.0)
            features[b, s, 1] = min(x[4], 4.0)
            features[b, s, 2] = (forward[b, s, j] - forward[b, s, i]) / max(time[b, s, j] - time[b, s, i], 1e-30)


def stage_memory(slots: SlotArrays, p: Prefixes, microbatches: int, cuts: Ints) -> Floats:
    """``[B, K, NUM_MEMORY_FEATURES]`` of each stage.

    The features are the fraction of the device's memory without and with recomputation, and the part of the time that
    recomputation repeats.
    """
    features = np.zeros((*slots.slow_class.shape, NUM_MEMORY_FEATURES))
    _memory(
        slots.num_slots, slots.numbers, p.time, p.forward, p.params, p.resident, p.saved, p.live,
        microbatches, cuts, features,
    )  # fmt: skip
    return features
