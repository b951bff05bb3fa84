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
one label per state: a good heuristic, exact for the pace alone where memory suffices. The chosen cuts are then
re-scored with the longest path through the stages instead of the sum of all passes, because parallel branches overlap.
The policy takes the result as an anchor and decides itself (see `partitioner`).

Left out: unequal shares of the micro-batches in the transfers (in the work they count), sharing of links by other than
neighbouring transfers, and which link a tensor that skips stages takes (it is charged to the stages that make and read
it, as if their neighbours were at the other end).
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from drlpp.agent.decisions.device_groups import Bools, Slot, fastest_first, replica_classes
from drlpp.agent.view.boundary_bytes import crossings
from drlpp.agent.view.device_classes import Floats, Ints, Tables
from drlpp.cluster import Cluster
from drlpp.cost import all_reduce_s
from drlpp.native import library
from drlpp.planners.space.shares import counts_of_a_round
from drlpp.problem import PlanningProblem
from drlpp.schedules.selection import SPLIT_BACKWARD_COST

CUT_OFFSETS = np.array([0, -1, 1, -2, 2, -3, 3, -4, 4, -6, 6])
"""Choices of a cut decision: positions relative to the anchor."""
NUM_CUT_FEATURES: int = library.NUM_CUT_FEATURES
"""Of each choice; `CutFeatures` in src/native/agent/stage_cuts.h says which."""
NUM_MEMORY_FEATURES: int = library.NUM_MEMORY_FEATURES
"""Of each stage; `MemoryFeatures`, likewise."""
_LONGEST_PERIOD = 64
"""Micro-batches over which the paths between the replicas of two slots are averaged."""


@dataclasses.dataclass(frozen=True)
class SlotArrays:
    """The slots of B episodes as arrays, padded to K.

    Attributes:
        num_slots: ``[B]``.
        slow_class: ``[B, K]`` class of the replica that takes longest for its micro-batches.
        rounds: ``[B, K]`` micro-batches of that replica.
        memory_bytes: ``[B, K]`` of the smallest replica.
        spared: ``[B, K]`` bytes of optimizer state per trained byte that a replica leaves to the others (ZeRO-1).
        besides_s: ``[B, K]`` seconds that the passes of a micro-batch take besides their ops.
        reduce_s, reduce_s_per_byte: ``[B, K]`` seconds of an all-reduce, fixed and per byte, with the optimizer's step.
        in_flight: ``[B, K]`` micro-batches in flight per replica that keep it busy: the mean; memory holds a whole
            number of them.
        into_s, out_s: ``[B, K]`` seconds per byte of what is busiest on the way into the slot and out of it (`_Path`).
        port_into_s, port_out_s: ``[B, K]`` the same of ports alone.
        mean_into_s, latency_s: ``[B, K]`` of one micro-batch on the way into the slot: seconds per byte, and seconds.
        num_microbatches: of a step.
        steady: the objective is the steady state.
    """

    num_slots: Ints
    slow_class: Ints
    rounds: Floats
    memory_bytes: Floats
    spared: Floats
    besides_s: Floats
    reduce_s: Floats
    reduce_s_per_byte: Floats
    in_flight: Floats
    into_s: Floats
    port_into_s: Floats
    mean_into_s: Floats
    latency_s: Floats
    out_s: Floats
    port_out_s: Floats
    num_microbatches: int
    steady: bool

    def select(self, rows: Ints) -> SlotArrays:
        """The arrays of some of the episodes."""
        values = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        chosen: dict[str, Any] = {name: v[rows] for name, v in values if isinstance(v, np.ndarray)}
        return dataclasses.replace(self, **chosen)


class _Alone(NamedTuple):
    """What does not depend on the slots beside a slot; see `SlotArrays`."""

    slow_class: int
    rounds: float
    memory_bytes: float
    spared: float
    besides_s: float
    reduce_s: float
    reduce_s_per_byte: float


def slot_arrays(batch: Sequence[tuple[Slot, ...]], t: Tables, problem: PlanningProblem) -> SlotArrays:
    """Derives the arrays of the slots of B episodes."""
    width = max(len(slots) for slots in batch)
    steady = problem.objective.of_one_microbatch
    columns: dict[str, Any] = {f.name: np.zeros((len(batch), width)) for f in dataclasses.fields(SlotArrays)[2:-2]}
    slow_class = np.zeros((len(batch), width), dtype=np.int64)
    alone: dict[Slot, _Alone] = {}
    paths: dict[tuple[Slot, Slot], _Path] = {}
    for b, slots in enumerate(batch):
        after = _Path()
        for s in range(len(slots) - 1, -1, -1):
            slot = slots[s]
            if slot not in alone:
                alone[slot] = _alone(slot, t, problem.cluster, steady)
            before = _Path()
            if s > 0:
                pair = slots[s - 1], slot
                if pair not in paths:
                    paths[pair] = _path(*pair, t, steady)
                before = paths[pair]
            slow_class[b, s], *_ = alone[slot]
            for name, value in (alone[slot]._asdict() | _beside(before, after)).items():
                if name in columns:
                    columns[name][b, s] = value
            columns["in_flight"][b, s] = min(t.microbatches, len(slots) - s) / slot.replicas
            after = before
    num_slots = np.array([len(slots) for slots in batch])
    return SlotArrays(
        num_slots=num_slots, slow_class=slow_class, **columns, num_microbatches=t.microbatches, steady=steady
    )


def _beside(before: _Path, after: _Path) -> dict[str, float]:
    """What depends on the slots beside a slot; see `SlotArrays`."""
    return {
        "into_s": before.into,
        "port_into_s": before.port,
        "mean_into_s": before.mean,
        "latency_s": before.latency_s,
        "out_s": after.out,
        "port_out_s": after.port,
    }


def _alone(slot: Slot, t: Tables, cluster: Cluster, steady: bool) -> _Alone:
    slow, rounds = _slowest(slot, t, steady)
    devices = [d for k, count in slot.parts for d in t.class_devices[k][:count]]  # of a class all are alike
    one, two = all_reduce_s(cluster, devices, 1e6), all_reduce_s(cluster, devices, 2e6)
    others = 1 - 1 / slot.replicas
    return _Alone(
        slow_class=slow,
        rounds=rounds,
        memory_bytes=min(t.memory[k] for k, _ in slot.parts),
        spared=t.divided_states * others,
        besides_s=float(t.besides_s[slow]),
        reduce_s=2 * one - two,
        reduce_s_per_byte=(two - one) / 1e6 + float(t.update_s[slow] - t.divided_update_s[slow] * others),
    )


def _slowest(slot: Slot, t: Tables, steady: bool) -> tuple[int, float]:
    """The class of the replica that takes longest for its micro-batches of a step, and how many these are.

    In the steady state all replicas of a class have the same number, which need not be whole.
    """
    parts = fastest_first(slot, t)
    if t.may_share and len({t.speed[k] for k, _ in parts}) > 1:
        rounds = _shared_rounds(parts, t, steady)
    else:
        first, rounds = 0, []
        for _, count in parts:
            left = t.microbatches - first
            rounds.append(t.microbatches / slot.replicas if steady else math.ceil(left / slot.replicas))
            first += count
    return max(zip(rounds, (k for k, _ in parts), strict=True), key=lambda x: (x[0] / t.speed[x[1]], x[1]))[::-1]


def _shared_rounds(parts: Sequence[tuple[int, int]], t: Tables, steady: bool) -> list[float]:
    """Micro-batches of the busiest replica of each class, where replicas share by their speed."""
    seconds = [1.0 / float(t.speed[k]) for k, count in parts for _ in range(count)]
    counts = counts_of_a_round(seconds, t.microbatches, steady=steady)
    first, rounds = 0, []
    for _, count in parts:
        rounds.append(max(counts[first : first + count]) * t.microbatches / sum(counts))
        first += count
    return rounds


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
        resident, saved: ``[B, K, n + 1]`` bytes on that replica.
        params: ``[B, n + 1]`` trained bytes.
        crossing: ``[B]`` index of the order in `into` and `out`.
        into, out: ``[U, n + 1, n + 1]`` of U different orders, see `crossings`; ``out[u, 0]`` is what crosses each cut.
    """

    orders: Ints
    time: Floats
    forward: Floats
    weights: Floats
    resident: Floats
    saved: Floats
    params: Floats
    crossing: Ints
    into: Floats
    out: Floats


def prefixes(orders: Ints, slots: SlotArrays, t: Tables) -> Prefixes:
    """Sums along ``[B, n]`` orders."""
    by_slot = (slots.slow_class[:, :, None], orders[:, None, :])
    different, crossing = np.unique(orders, axis=0, return_inverse=True)
    crossing_bytes = crossings(different, t)
    return Prefixes(
        orders=np.ascontiguousarray(orders),
        time=_prefix(t.time_s[by_slot]),
        forward=_prefix(t.forward_s[by_slot]),
        weights=_prefix(t.weight_grad_s[by_slot]),
        resident=_prefix(t.held_resident[by_slot]),
        saved=_prefix(t.held_saved[by_slot]),
        params=_prefix(t.params[orders]),
        crossing=crossing,
        into=crossing_bytes.into,
        out=crossing_bytes.out,
    )


def _prefix(values: Floats) -> Floats:
    out = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, out=out[..., 1:])
    return out


class StageQuestion(NamedTuple):
    """A stage of an episode.

    Attributes:
        episode, slot: which.
        first, last: it has the ops at positions first to last - 1.
        after_s: seconds of a micro-batch through the later stages and back.
        split: backward passes are split, see above.
    """

    episode: int
    slot: int
    first: int
    last: int
    after_s: float = 0.0
    split: bool = False


class StageCost(NamedTuple):
    """What a stage costs.

    Attributes:
        pace_s: its rounds after the first; in the steady state, its load per micro-batch.
        pass_s: one micro-batch forth and back, with the transfer into the stage.
        waited_s: the part of the pass that the other stages wait for.
        reduce_s: the all-reduce of the gradients.
        busy_into_s: what is busiest on the way into the stage, per micro-batch.
        memory: part of the memory, with as many micro-batches in flight as keep the stage busy.
        memory_recomputed: the same if the forward pass runs again.
        memory_of_one: the same with a single micro-batch in flight.
        gain: of recomputation, the logarithm of the ratio of times.
    """

    pace_s: float
    pass_s: float
    waited_s: float
    reduce_s: float
    busy_into_s: float
    memory: float
    memory_recomputed: float
    memory_of_one: float
    gain: float


def stage_cost(slots: SlotArrays, p: Prefixes, question: StageQuestion) -> StageCost:
    """What the estimate says of one stage. Raises ValueError if there is no such stage."""
    return StageCost(**library.stage_cost(slots, p, question))


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
    return _judged(slots, p, t, library.solve_cuts(slots, p, split, places), split)


def _judged(slots: SlotArrays, p: Prefixes, t: Tables, cuts: Ints, split: bool) -> Anchors:
    return Anchors(cuts=cuts, split=np.full(len(cuts), split), **library.judge_cuts(slots, p, t, split, cuts))


class CutChoices(NamedTuple):
    """The choices for one cut of B episodes: O of them each.

    Attributes:
        features: ``[B, O, NUM_CUT_FEATURES]``.
        mask: ``[B, O]``.
    """

    features: Floats
    mask: Bools


def cut_choices(c: int, slots: SlotArrays, p: Prefixes, anchors: Anchors, cuts: Ints) -> CutChoices:
    """Features ``[B, O, NUM_CUT_FEATURES]`` and mask ``[B, O]`` of the choices for cut `c` (before slot `c`).

    A choice is legal if every stage keeps an op; where some choice lets the stage on the left (and the last stage, if
    it begins here) fit its memory, those that do not are masked. Episodes with fewer slots have only choice 0. `cuts`
    holds the cuts made so far.
    """
    return CutChoices(**library.cut_choices(slots, p, anchors, cuts, c, CUT_OFFSETS))


def make_cuts(c: int, slots: SlotArrays, anchors: Ints, cuts: Ints, choice: Ints, num_ops: int) -> None:
    """Writes the chosen positions of cut `c` into `cuts`."""
    active = slots.num_slots > c
    low, high = cuts[:, c - 1] + 1, num_ops - (slots.num_slots - c)
    at = np.minimum(np.maximum(anchors[:, c], low), high) + CUT_OFFSETS[choice]
    cuts[active, c] = at[active]


def stage_memory(slots: SlotArrays, p: Prefixes, split: Bools, cuts: Ints) -> Floats:
    """``[B, K, NUM_MEMORY_FEATURES]`` of each stage, whose backward passes are split or not.

    The features are the fraction of the device's memory without and with recomputation, the part of the time that
    recomputation repeats, the logarithm of what the estimate says that recomputation gains (clipped to 2), and the
    fraction of the memory with a single micro-batch in flight, without recomputation.
    """
    return library.stage_memory(slots, p, split, cuts)
