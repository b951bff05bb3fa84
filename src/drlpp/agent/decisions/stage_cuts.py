"""Where to cut an order of the ops into the stages of given slots: costs, and the best cuts by dynamic programming.

The estimate of a step is that of a pipeline whose slowest part sets the pace: ``pace + sum of passes + late``.
- *pace*: the largest over stages of what its rounds after the first take: (rounds - 1) x compute of the slowest
  replica, or the transfers of the micro-batches after the first into it, or those through its host's port. Memory
  bounds how many micro-batches are in flight: each of these places serves one round trip, through the later stages and
  back, at a time. With or without recomputation, whichever is faster; a penalty if not even one micro-batch fits.
- *sum of passes*: one micro-batch forth and back through all stages and over all boundaries.
- *late*: by how much a gradient all-reduce ends after the last backward pass: that of a late stage runs while the
  earlier stages still compute.

Most good schedules of pipelines with several stages split the backward pass: then other stages wait for the forward
pass and the gradient of the input only, and the gradients of the weights, as much work for the device as before, fill
what would be bubbles. So there is a second estimate: the sum of passes without the gradients of the weights, and no
overlap of all-reduces with the drain; a place in memory is still taken until a whole pass is done. It counts where it
is smaller by what the evaluator asks of such schedules.

For the steady state the pace is the largest load of a device per micro-batch, and little else counts.

`solve_cuts` minimises the estimate by a dynamic programme over (slot, position), from the end of the order, that keeps
one label per state: a good heuristic, exact for the pace alone where memory suffices. The value that it gives then
counts stages that run at the same time only once. The policy takes the result as an anchor and decides itself (see
`partitioner`).

Left out: sharing of links by other than neighbouring transfers, and which link a tensor that skips stages takes (it is
charged to the stages that make and read it, as if their neighbours were at the other end).
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

import numba
import numpy as np

from drlpp.agent.decisions.device_groups import Bools, Slot, fastest_first, replica_classes
from drlpp.agent.view.boundary_bytes import crossings
from drlpp.agent.view.device_classes import Floats, Ints, Tables
from drlpp.cluster import Cluster
from drlpp.cost import all_reduce_s
from drlpp.problem import PlanningProblem
from drlpp.schedules.selection import SPLIT_BACKWARD_COST

CUT_OFFSETS = np.array([0, -1, 1, -2, 2, -3, 3, -4, 4, -6, 6])
"""Choices of a cut decision: positions relative to the anchor."""
NUM_CUT_FEATURES = 11
NUM_MEMORY_FEATURES = 5
_OVERFLOW = 20.0
_STEADY_WEIGHT = 1000.0
_LONGEST_PERIOD = 64
_RETURNED, _AHEAD = 2.0, 2.0
"""Messages that a stage has buffers for (see `cost.schedule_memory`): gradients that it returned, and those received
for its next actions. These are gradients; or, before the pipeline drains, a value in the place of one of three."""
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
    steady = problem.objective.of_one_microbatch
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
        time, forward, weights: ``[B, K, n + 1]`` seconds on the slowest replica of each slot; of both passes, of the
            forward pass, and of the weights' gradients.
        params, resident, saved: ``[B, n + 1]`` bytes.
        crossing: ``[B]`` index of the order in `into` and `out`.
        into, out: ``[U, n + 1, n + 1]`` of U different orders, see `crossings`; ``out[u, 0]`` is what crosses each cut.
    """

    orders: Ints
    time: Floats
    forward: Floats
    weights: Floats
    params: Floats
    resident: Floats
    saved: Floats
    crossing: Ints
    into: Floats
    out: Floats


def prefixes(orders: Ints, slots: SlotArrays, t: Tables) -> Prefixes:
    """Sums along ``[B, n]`` orders."""
    by_slot = (slots.slow_class[:, :, None], orders[:, None, :])
    different, crossing = np.unique(orders, axis=0, return_inverse=True)
    into, out = crossings(different, t)
    return Prefixes(
        orders=orders,
        time=_prefix(t.time_s[by_slot]),
        forward=_prefix(t.forward_s[by_slot]),
        weights=_prefix(t.weight_grad_s[by_slot]),
        params=_prefix(t.params[orders]),
        resident=_prefix(t.resident[orders]),
        saved=_prefix(t.saved[orders]),
        crossing=crossing,
        into=into,
        out=out,
    )


def _prefix(values: Floats) -> Floats:
    out = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, out=out[..., 1:])
    return out


@numba.njit(cache=True)
def _cycle(compute, rounds, round_trip, room, scarce, each, in_flight):  # type: ignore[no-untyped-def]
    """Seconds of the rounds after the first of a replica that has room for so many bytes of micro-batches in flight.

    If not for as many as 1F1B has, a list schedule is left, which keeps more memory free (`scarce` bytes), but always
    lets one micro-batch in.
    """
    if room < each:
        return np.inf
    places = in_flight if room >= each * in_flight else 1.0
    if room >= scarce:
        places = max(places, (room - scarce) // each if each > 0.0 else np.inf)
    return max(compute * (rounds - 1.0), round_trip * (rounds / places - 1.0))


@numba.njit(cache=True)
def _stage(  # type: ignore[no-untyped-def]
    s, i, j, after, slot, steady, split, time, forward, weights, params, resident, saved, into, out, m,
):  # fmt: skip
    """What ops i..j-1 cost in slot s, if a micro-batch takes `after` seconds through the later stages and back.

    Pace, pass, all-reduce, transfer in; memory fraction with as many micro-batches in flight as keep the stage busy,
    without and with recomputation, and with a single one; gain of recomputation (log); the part of the pass that the
    other stages wait for.
    """
    n = slot[s]
    compute = time[s, j] - time[s, i]
    again = compute + forward[s, j] - forward[s, i]
    rounds = n[_ROUNDS]
    kept, sent = into[i, j], out[i, j]
    busy_in, busy_out = kept * n[_IN], sent * n[_OUT]
    transfer_s = kept * n[_MEAN_IN] + n[_LATENCY]
    held = saved[j] - saved[i]
    largest = max(kept, sent)
    base = resident[j] - resident[i] + _RETURNED * kept + _AHEAD * sent + largest
    in_flight = math.ceil(n[_IN_FLIGHT])
    one = (base + held) / n[_CAPACITY]
    without = (base + held * in_flight) / n[_CAPACITY]
    with_it = (base + kept * in_flight + held) / n[_CAPACITY]
    room, rest = n[_CAPACITY] - base, 2.0 * transfer_s + after
    if steady:
        keep = compute * rounds if one <= 1.0 else np.inf
        redo = again * rounds if room - held >= kept else np.inf
    else:
        scarce = _AHEAD * (largest - sent)  # list schedules have room for the largest message, whatever comes
        keep = _cycle(compute, rounds, compute + rest, room, scarce, held, in_flight)
        if split:  # what was computed again stays until the gradients of the weights are done
            redo = _cycle(again, rounds, again + rest, room, scarce, kept + held, in_flight)
        else:
            redo = _cycle(again, rounds, again + rest, room - held, scarce, kept, in_flight)
    if keep < np.inf:
        gain = math.log(max(keep + compute, 1e-30) / max(redo + again, 1e-30)) if redo < np.inf else -9.0
    else:
        gain = 9.0 if redo < np.inf or with_it < without else -9.0
    cycle, penalty = keep, 0.0
    if gain > 0.0:
        compute, cycle = again, redo
    if cycle == np.inf:
        cycle, penalty = compute * rounds, _OVERFLOW * compute * rounds * max(one, 1.0)
    weight_bytes = params[j] - params[i]
    reduce_s = n[_ALPHA] + n[_BETA] * weight_bytes if weight_bytes > 0.0 else 0.0
    if steady:
        pace = cycle / m + 2.0 * (busy_in + busy_out) + reduce_s / m
    else:
        port = kept * n[_PORT_IN] + sent * n[_PORT_OUT]
        pace = max(cycle, max(busy_in, port) * (m - 1.0))
    once = compute + 2.0 * transfer_s
    waited = once - (weights[s, j] - weights[s, i] if split else 0.0)
    return pace + penalty, once, reduce_s, busy_in, without, with_it, one, gain, waited


@numba.njit(cache=True)
def _solve_one(  # type: ignore[no-untyped-def]
    num_slots, slot, steady, split, time, forward, weights, params, resident, saved, into, out, m, most, cuts,
):  # fmt: skip
    n = len(params) - 1
    stride = max(1, min(n // most, n // num_slots))
    last_place = -(-n // stride)  # place x is position min(x * stride, n)
    weight = _STEADY_WEIGHT if steady else 1.0
    # of stages s.. if they begin at place x
    pace = np.full((num_slots + 1, last_place + 1), np.inf)
    total = np.full((num_slots + 1, last_place + 1), np.inf)  # of what others wait for
    away = np.zeros((num_slots + 1, last_place + 1))  # of whole passes: memory is free after all of them
    late = np.zeros((num_slots + 1, last_place + 1))
    following = np.zeros((num_slots, last_place + 1), dtype=np.int64)
    pace[num_slots, last_place] = total[num_slots, last_place] = 0.0
    for s in range(num_slots - 1, -1, -1):
        rounds = weight * slot[s, _ROUNDS] / m if steady else slot[s, _ROUNDS] - 1.0
        for x in range(s, 1 if s == 0 else last_place - (num_slots - s) + 1):
            i = x * stride
            best = np.inf
            # first the end that was best for the beginning before this one: it rules out most others
            for k in range(x, last_place + 1):
                y = max(following[s, x - 1], x + 1) if k == x else k
                j = min(y * stride, n)
                compute = time[s, j] - time[s, i]
                least = compute - (weights[s, j] - weights[s, i] if split else 0.0)
                if rounds * compute + least >= best and k > x:
                    break
                after = total[s + 1, y]
                if max(rounds * compute, weight * pace[s + 1, y]) + least + after >= best:
                    continue
                own, once, reduce_s, _, _, _, _, _, waited = _stage(
                    s, i, j, away[s + 1, y], slot, steady, split, time, forward, weights, params, resident, saved, into,
                    out, m,
                )  # fmt: skip
                high = max(pace[s + 1, y], own)
                # the earlier stages still run backward, two thirds of their pass, when a stage is done; but not if all
                # have gradients of weights left
                ends = max(reduce_s, late[s + 1, y] - (0.0 if split else _BACKWARD * once))
                key = weight * high + waited + after + (0.0 if steady else ends)
                if key < best:
                    best = key
                    pace[s, x], total[s, x], late[s, x], following[s, x] = high, waited + after, ends, y
                    away[s, x] = once + away[s + 1, y]
    place = 0
    for s in range(num_slots):
        place = following[s, place]
        cuts[s + 1] = min(place * stride, n)


@numba.njit(cache=True)
def _judge_one(  # type: ignore[no-untyped-def]
    num_slots, slot, steady, split, time, forward, weights, params, resident, saved, into, out, m, order, succ_ptr,
    succ, cuts, after, found,
):  # fmt: skip
    n = len(params) - 1
    waited = np.zeros(num_slots)
    pace = late = total = 0.0
    for s in range(num_slots - 1, -1, -1):
        after[s] = total
        own, once, reduce_s, _, _, _, _, _, waited[s] = _stage(
            s, cuts[s], cuts[s + 1], total, slot, steady, split, time, forward, weights, params, resident, saved, into,
            out, m,
        )  # fmt: skip
        pace, total = max(pace, own), total + once
        late = max(reduce_s, late - (0.0 if split else _BACKWARD * once))
    found[0] = found[1] = pace
    if steady:
        return
    # stages that do not wait for each other run at the same time: of the sum of passes the longest path is left
    stage = np.empty(n, dtype=np.int64)
    for s in range(num_slots):
        for i in range(cuts[s], cuts[s + 1]):
            stage[order[i]] = s
    ready, longest = np.zeros(num_slots), 0.0
    for s in range(num_slots):
        longest = max(longest, ready[s] + waited[s])
        for i in range(cuts[s], cuts[s + 1]):
            for x in range(succ_ptr[order[i]], succ_ptr[order[i] + 1]):
                after_this = stage[succ[x]]
                if after_this > s:
                    ready[after_this] = max(ready[after_this], ready[s] + waited[s])
    found[1] = pace + longest + late


@numba.njit(cache=True)
def _solve(  # type: ignore[no-untyped-def]
    num_slots, slots, steady, split, time, forward, weights, params, resident, saved, crossing, into, out, m, most,
    cuts,
):  # fmt: skip
    for b in range(len(num_slots)):
        x = crossing[b]
        _solve_one(
            num_slots[b], slots[b], steady, split, time[b], forward[b], weights[b], params[b], resident[b], saved[b],
            into[x], out[x], m, most, cuts[b],
        )  # fmt: skip


@numba.njit(cache=True)
def _judge(  # type: ignore[no-untyped-def]
    num_slots, slots, steady, split, time, forward, weights, params, resident, saved, crossing, into, out, m, orders,
    succ_ptr, succ, cuts, after, found,
):  # fmt: skip
    for b in range(len(num_slots)):
        x = crossing[b]
        _judge_one(
            num_slots[b], slots[b], steady, split, time[b], forward[b], weights[b], params[b], resident[b], saved[b],
            into[x], out[x], m, orders[b], succ_ptr, succ, cuts[b], after[b], found[b],
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Cuts of B episodes, and what the estimate says of them.

    Attributes:
        cuts: ``[B, K + 1]``: stage s is ``order[cuts[s] : cuts[s + 1]]`` (entries after the last slot are 0).
        split: ``[B]`` the backward passes are split, see above.
        after: ``[B, K]`` seconds of a micro-batch through the stages after s, and back.
        pace: ``[B]`` the largest pace of a stage, seconds.
        value: ``[B]`` the estimate of the objective, seconds: of the stages' passes only the longest path counts.
    """

    cuts: Ints
    split: Bools
    after: Floats
    pace: Floats
    value: Floats

    def or_split(self, other: Anchors) -> Anchors:
        """Episode by episode these, or others with split backward passes where the evaluator would choose them."""
        better = other.value * (1.0 + SPLIT_BACKWARD_COST) < self.value
        rows = better[:, None]
        return Anchors(
            cuts=np.where(rows, other.cuts, self.cuts),
            split=better,
            after=np.where(rows, other.after, self.after),
            pace=np.where(better, other.pace, self.pace),
            value=np.where(better, other.value, self.value),
        )


def solve_cuts(slots: SlotArrays, p: Prefixes, t: Tables, places: int | None = None) -> Anchors:
    """The best cuts of every episode by the estimate.

    Args:
        places: consider cuts at about so many places only, evenly spaced; None for all.
    """
    whole = _solved(slots, p, t, places or t.num_ops, False)
    return whole.or_split(_solved(slots, p, t, places or t.num_ops, True)) if _may_split(slots, t) else whole


def judge_cuts(slots: SlotArrays, p: Prefixes, t: Tables, cuts: Ints) -> Anchors:
    """What the estimate says of given cuts ``[B, K + 1]``."""
    whole = _judged(slots, p, t, cuts, False)
    return whole.or_split(_judged(slots, p, t, cuts, True)) if _may_split(slots, t) else whole


def _may_split(slots: SlotArrays, t: Tables) -> bool:
    return not slots.steady and bool(t.weight_grad_s.any())


def _solved(slots: SlotArrays, p: Prefixes, t: Tables, places: int, split: bool) -> Anchors:
    cuts = np.zeros((len(slots.num_slots), slots.slow_class.shape[1] + 1), dtype=np.int64)
    _solve(
        slots.num_slots, slots.numbers, slots.steady, split, p.time, p.forward, p.weights, p.params, p.resident,
        p.saved, p.crossing, p.into, p.out, t.microbatches, places, cuts,
    )  # fmt: skip
    return _judged(slots, p, t, cuts, split)


def _judged(slots: SlotArrays, p: Prefixes, t: Tables, cuts: Ints, split: bool) -> Anchors:
    after = np.zeros(slots.slow_class.shape)
    found = np.zeros((len(slots.num_slots), 2))
    _judge(
        slots.num_slots, slots.numbers, slots.steady, split, p.time, p.forward, p.weights, p.params, p.resident,
        p.saved, p.crossing, p.into, p.out, t.microbatches, p.orders, t.succ_ptr, t.succ, cuts, after, found,
    )  # fmt: skip
    return Anchors(cuts, np.full(len(cuts), split), after, found[:, 0], found[:, 1])


@numba.njit(cache=True)
def _choices(  # type: ignore[no-untyped-def]
    c,
    num_slots, slots, steady, split, time, forward, weights, params, resident, saved, crossing, into, out, m,
    offsets, anchors, after, pace, value, cuts, features, mask,
):  # fmt: skip
    for b in range(len(num_slots)):
        last, x = num_slots[b], crossing[b]
        n = params.shape[1] - 1
        if c >= last:
            mask[b, 0] = True
            continue
        low, high = cuts[b, c - 1] + 1, n - (last - c)
        anchor = min(max(anchors[b, c], low), high)
        top, whole = pace[b], max(value[b], 1e-30)
        live = out[x, 0]
        mean_live = max(live.mean(), 1e-30)
        full = np.full(len(offsets), np.inf)
        for k in range(len(offsets)):
            at = anchor + offsets[k]
            if at < low or at > high:
                continue
            end = max(anchors[b, c + 1], at + 1)
            right = _stage(
                c, at, end, after[b, c], slots[b], steady, split[b], time[b], forward[b], weights[b], params[b],
                resident[b], saved[b], into[x], out[x], m,
            )  # fmt: skip
            left = _stage(
                c - 1, cuts[b, c - 1], at, right[1] + after[b, c], slots[b], steady, split[b], time[b], forward[b],
                weights[b], params[b], resident[b], saved[b], into[x], out[x], m,
            )  # fmt: skip
            f = features[b, k]
            f[0] = offsets[k] / 4.0
            f[1] = abs(offsets[k]) / 4.0
            f[2] = 1.0 if offsets[k] == 0 else 0.0
            f[3] = min((left[0] - top) / whole, 2.0)
            f[4] = min((right[0] - top) / whole, 2.0)
            f[5] = min((max(max(left[0], right[0]) - top, 0.0) + left[8] + right[8]) / whole, 2.0)
            f[6] = min(m * right[3] / whole, 2.0)
            f[7] = min(left[6], 2.0)
            f[8] = min(right[6], 2.0)
            f[9] = math.log(live[at] / mean_live + 1e-3) / 3.0
            f[10] = c / last
            mask[b, k] = True
            full[k] = left[6] if c < last - 1 else max(left[6], right[6])
        if full.min() <= 1.0:
            for k in range(len(offsets)):
                if full[k] > 1.0:
                    mask[b, k] = False


def cut_choices(
    c: int, slots: SlotArrays, p: Prefixes, microbatches: int, anchors: Anchors, cuts: Ints
) -> tuple[Floats, Bools]:
    """Features ``[B, O, NUM_CUT_FEATURES]`` and mask ``[B, O]`` of the choices for cut `c` (before slot `c`).

    A choice is legal if every stage keeps an op; where some choice lets the stage on the left (and the last stage, if
    it begins here) fit its memory, those that do not are masked. Episodes with fewer slots have only choice 0. `cuts`
    holds the cuts made so far.
    """
    batch = len(slots.num_slots)
    features = np.zeros((batch, len(CUT_OFFSETS), NUM_CUT_FEATURES))
    mask = np.zeros((batch, len(CUT_OFFSETS)), dtype=bool)
    _choices(
        c, slots.num_slots, slots.numbers, slots.steady, anchors.split, p.time, p.forward, p.weights, p.params,
        p.resident, p.saved, p.crossing, p.into, p.out, microbatches, CUT_OFFSETS, anchors.cuts, anchors.after,
        anchors.pace, anchors.value, cuts, features, mask,
    )  # fmt: skip
    return features, mask


def make_cuts(c: int, slots: SlotArrays, anchors: Ints, cuts: Ints, choice: Ints, num_ops: int) -> None:
    """Writes the chosen positions of cut `c` into `cuts`."""
    active = slots.num_slots > c
    low, high = cuts[:, c - 1] + 1, num_ops - (slots.num_slots - c)
    at = np.minimum(np.maximum(anchors[:, c], low), high) + CUT_OFFSETS[choice]
    cuts[active, c] = at[active]


@numba.njit(cache=True)
def _memory(  # type: ignore[no-untyped-def]
    num_slots, slots, steady, split, time, forward, weights, params, resident, saved, crossing, into, out, m, cuts,
    features,
):  # fmt: skip
    for b in range(len(num_slots)):
        x, after = crossing[b], 0.0
        for s in range(num_slots[b] - 1, -1, -1):
            i, j = cuts[b, s], cuts[b, s + 1]
            cost = _stage(
                s, i, j, after, slots[b], steady, split[b], time[b], forward[b], weights[b], params[b], resident[b],
                saved[b], into[x], out[x], m,
            )  # fmt: skip
            after += cost[1]
            features[b, s, 0] = min(cost[4], 4.0)
            features[b, s, 1] = min(cost[5], 4.0)
            features[b, s, 2] = (forward[b, s, j] - forward[b, s, i]) / max(time[b, s, j] - time[b, s, i], 1e-30)
            features[b, s, 3] = min(max(cost[7], -2.0), 2.0)
            features[b, s, 4] = min(cost[6], 4.0)


def stage_memory(slots: SlotArrays, p: Prefixes, microbatches: int, split: Bools, cuts: Ints) -> Floats:
    """``[B, K, NUM_MEMORY_FEATURES]`` of each stage, whose backward passes are split or not.

    The features are the fraction of the device's memory without and with recomputation, the part of the time that
    recomputation repeats, the logarithm of what the estimate says that recomputation gains (clipped to 2), and the
    fraction of the memory with a single micro-batch in flight, without recomputation.
    """
    features = np.zeros((*slots.slow_class.shape, NUM_MEMORY_FEATURES))
    _memory(
        slots.num_slots, slots.numbers, slots.steady, split, p.time, p.forward, p.weights, p.params, p.resident,
        p.saved, p.crossing, p.into, p.out, microbatches, cuts, features,
    )  # fmt: skip
    return features
