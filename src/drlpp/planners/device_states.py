"""Which devices the last stages may take: the second dimension of the dynamic programs over splits.

A *device state* says which devices the stages from some split to the end of the model use. `in_order` takes the last
k places of one order of the devices; `by_class` the number of devices taken of each type, so that the order of types
along the pipeline is part of the search. A *step* adds one stage in front: on r devices (replicas), or on none (r =
0: devices stay idle).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster
from drlpp.cost import all_reduce_s
from drlpp.planners.op_arrays import OpArrays
from drlpp.problem import PlanningProblem

MANY_DEVICES = 48
"""Above this number, replicas are powers of two at aligned positions only."""


@dataclasses.dataclass(frozen=True)
class DeviceStates:
    """Q states and E steps, sorted by the state they lead to (state 0: no device taken).

    Attributes:
        capacity: ``[Q]`` sum of optimistic speeds of the devices taken, relative to the fastest type of each op.
        step_ptr: ``[Q + 1]`` steps that lead to each state.
        rest: ``[E]`` state of the stages after this one.
        replicas, type_index, speed: ``[E]``; `type_index` of the slowest replica, `speed` optimistic.
        share: ``[E]`` part of the micro-batches that a replica runs.
        seconds_in, seconds_out: ``[E]`` per unit of amount received from before and sent to behind.
        latency_in_s, latency_out_s: ``[E]`` of one message.
        sync_s, sync_s_per_byte: ``[E]`` of the gradient all-reduce, per micro-batch.
        memory_bytes: ``[E]`` of the smallest replica.
        in_flight: ``[E]`` micro-batches that the stage keeps, at most.
        recompute: ``[E]`` the stage runs its forward pass again.
        devices: per step, its device ids; for `by_class`, the class and number are in `taken` instead.
        taken: per step, (class, number).
        pools: per class, its device ids.
    """

    capacity: NDArray[np.float64]
    step_ptr: NDArray[np.int64]
    rest: NDArray[np.int64]
    replicas: NDArray[np.int64]
    type_index: NDArray[np.int64]
    speed: NDArray[np.float64]
    share: NDArray[np.float64]
    seconds_in: NDArray[np.float64]
    seconds_out: NDArray[np.float64]
    latency_in_s: NDArray[np.float64]
    latency_out_s: NDArray[np.float64]
    sync_s: NDArray[np.float64]
    sync_s_per_byte: NDArray[np.float64]
    memory_bytes: NDArray[np.float64]
    in_flight: NDArray[np.int64]
    recompute: NDArray[np.bool_]
    devices: tuple[tuple[int, ...], ...]
    taken: tuple[tuple[int, int], ...]
    pools: tuple[tuple[int, ...], ...]

    @property
    def num_states(self) -> int:
        return len(self.capacity)


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    rest: int
    replicas: int
    type_index: int
    speed: float
    share: float
    seconds_in: float
    seconds_out: float
    latency_in_s: float
    latency_out_s: float
    sync_s: float
    sync_s_per_byte: float
    memory_bytes: float
    in_flight: int
    recompute: bool
    devices: tuple[int, ...]
    taken: tuple[int, int]


def relative_speeds(arrays: OpArrays) -> NDArray[np.float64]:
    """``[T]`` best ratio, over the ops, of the fastest type's time to this type's (1 for a type that is fastest)."""
    fastest = arrays.total_s.min(axis=0)
    ratio = np.divide(fastest, arrays.total_s, out=np.zeros_like(arrays.total_s), where=arrays.total_s > 0)
    return np.asarray(np.maximum(ratio.max(axis=1), 1e-9))


class AllReduceTable:
    """Seconds of all-reduces as (constant, per byte), remembered by the kind of device set."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[tuple[tuple[object, int], ...], tuple[float, float]] = {}

    def __call__(self, devices: Sequence[int]) -> tuple[float, float]:
        if len(devices) < 2:
            return 0.0, 0.0
        hosts = Counter(int(self._cluster.host_index[d]) for d in devices)
        kinds = Counter((self._cluster.hosts[h].link, self._cluster.hosts[h].network, n) for h, n in hosts.items())
        key = tuple(sorted(((repr(k), c) for k, c in kinds.items()), key=repr))
        if key not in self._known:
            small, large = (all_reduce_s(self._cluster, devices, x) for x in (1.0, 1e9 + 1.0))
            per_byte = (large - small) / 1e9
            self._known[key] = (max(0.0, small - per_byte), per_byte)
        return self._known[key]


def microbatch_share(problem: PlanningProblem, replicas: int) -> float:
    """Part of a step's micro-batches that the busiest of some replicas runs; on average, for the steady state."""
    if problem.objective == "steady-state":
        return 1.0 / replicas
    return -(-problem.training.num_microbatches // replicas) / problem.training.num_microbatches


def replica_choices(problem: PlanningProblem, num_places: int) -> tuple[int, ...]:
    """Numbers of places that a stage may take: those of `replica_counts`, or one where stages may not be replicated."""
    return replica_counts(num_places) if problem.may_replicate else (1,)


def replica_counts(num_devices: int) -> tuple[int, ...]:
    """Numbers of replicas worth trying: all, or powers of two and the whole on many devices."""
    if num_devices <= MANY_DEVICES:
        return tuple(range(1, num_devices + 1))
    powers = [1 << i for i in range(num_devices.bit_length()) if 1 << i <= num_devices]
    return tuple(sorted({*powers, num_devices}))


def in_order(
    problem: PlanningProblem,
    arrays: OpArrays,
    order: Sequence[tuple[int, ...]],
    replicas: Sequence[int],
    *,
    reach: int = 1,
    recompute: bool = False,
) -> DeviceStates:
    """States "the last k places of `order`"; a stage takes neighbouring places.

    Args:
        order: places; each holds the same number d of devices, which replicate what is there. Micro-batch m uses device
            m mod d of every place, so transfers stay between devices of equal index.
        replicas: numbers of places that a stage may take.
        reach: how many places before and behind a stage its transfers are averaged over (the program does not know how
            many replicas the neighbouring stages have).
        recompute: let each stage choose to run its forward pass again.
    """
    cluster = problem.cluster
    total, depth = len(order), len(order[0])
    reduce_s = AllReduceTable(cluster)
    speeds = relative_speeds(arrays)
    types = cluster.type_index
    slowness = arrays.total_s.sum(axis=1)
    num_microbatches = problem.training.num_microbatches
    place_speed = [depth * max(float(speeds[types[d]]) for d in place) for place in order]
    steps: list[list[_Step]] = [[] for _ in range(total + 1)]
    for r in sorted(set(replicas)):
        if r > total:
            continue
        stride = r if total > MANY_DEVICES else 1
        for position in range(0, total - r + 1, stride):
            behind, left = position + r, total - position
            places = order[position:behind]
            devices = tuple(d for place in places for d in place)
            worst = max(devices, key=lambda d: (slowness[types[d]], d))
            constant, per_byte = reduce_s(devices)
            seconds_in, latency_in = _mean_path(cluster, arrays, order[max(0, position - reach) : position], places)
            seconds_out, latency_out = _mean_path(cluster, arrays, order[behind : behind + reach], places)
            number = r * depth
            base = _Step(
                rest=total - behind,
                replicas=number,
                type_index=int(types[worst]),
                speed=float(speeds[types[worst]]),
                share=microbatch_share(problem, number),
                seconds_in=seconds_in,
                latency_in_s=latency_in,
                seconds_out=seconds_out,
                latency_out_s=latency_out,
                sync_s=constant / num_microbatches,
                sync_s_per_byte=per_byte / num_microbatches,
                memory_bytes=min(float(cluster.memory_bytes[d]) for d in devices),
                in_flight=min(-(-num_microbatches // number), -(-left // r)),
                recompute=False,
                devices=devices,
                taken=(0, number),
            )
            steps[left].append(base)
            if recompute:
                steps[left].append(dataclasses.replace(base, recompute=True))
    capacity = np.concatenate(([0.0], np.cumsum(place_speed[::-1])))
    for k in range(1, total + 1):
        steps[k].append(_idle(k - 1))
    return _pack(capacity, steps, ())


def by_class(problem: PlanningProblem, arrays: OpArrays, replicas: Sequence[int], limit: int) -> DeviceStates | None:
    """States "n_c devices of class c", where a class is a device type; None where there are more than `limit`.

    Paths between devices are taken as the mean over the cluster, because the state does not say which devices are
    neighbours.
    """
    cluster = problem.cluster
    pools = tuple(
        tuple(int(d) for d in np.flatnonzero(cluster.type_index == t)) for t in sorted(set(cluster.type_index.tolist()))
    )
    shape = [len(p) + 1 for p in pools]
    if np.prod([float(x) for x in shape]) > limit:
        return None
    reduce_s = AllReduceTable(cluster)
    speeds = relative_speeds(arrays)
    counts = sorted(itertools.product(*(range(x) for x in shape)), key=lambda c: (sum(c), c))
    number = {c: q for q, c in enumerate(counts)}
    num_microbatches = problem.training.num_microbatches
    seconds, latency = _cluster_path(cluster, arrays)
    capacity = np.zeros(len(counts))
    steps: list[list[_Step]] = [[] for _ in counts]
    for q, count in enumerate(counts):
        for c, pool in enumerate(pools):
            type_index = int(cluster.type_index[pool[0]])
            capacity[q] += count[c] * speeds[type_index]
            for r in (x for x in replicas if x <= count[c]):
                rest = number[(*count[:c], count[c] - r, *count[c + 1 :])]
                constant, per_byte = reduce_s(pool[len(pool) - count[c] : len(pool) - count[c] + r])
                steps[q].append(
                    _Step(
                        rest=rest,
                        replicas=r,
                        type_index=type_index,
                        speed=float(speeds[type_index]),
                        share=microbatch_share(problem, r),
                        seconds_in=seconds,
                        latency_in_s=latency,
                        seconds_out=seconds,
                        latency_out_s=latency,
                        sync_s=constant / num_microbatches,
                        sync_s_per_byte=per_byte / num_microbatches,
                        memory_bytes=float(cluster.memory_bytes[pool[0]]),
                        in_flight=min(-(-num_microbatches // r), -(-sum(count) // r)),
                        recompute=False,
                        devices=(),
                        taken=(c, r),
                    )
                )
            if count[c]:
                steps[q].append(_idle(number[(*count[:c], count[c] - 1, *count[c + 1 :])]))
    return _pack(capacity, steps, pools)


def _idle(rest: int) -> _Step:
    return _Step(rest, 0, 0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, False, (), (0, 0))


def _pack(capacity: NDArray[np.float64], steps: list[list[_Step]], pools: tuple[tuple[int, ...], ...]) -> DeviceStates:
    flat = [step for group in steps for step in group]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(s, name) for s in flat], dtype=np.float64)

    def whole(name: str) -> NDArray[np.int64]:
        return np.array([getattr(s, name) for s in flat], dtype=np.int64)

    pointer = np.concatenate(([0], np.cumsum([len(group) for group in steps])))
    return DeviceStates(
        capacity=capacity,
        step_ptr=pointer.astype(np.int64),
        rest=whole("rest"),
        replicas=whole("replicas"),
        type_index=whole("type_index"),
        speed=column("speed"),
        share=column("share"),
        seconds_in=column("seconds_in"),
        seconds_out=column("seconds_out"),
        latency_in_s=column("latency_in_s"),
        latency_out_s=column("latency_out_s"),
        sync_s=column("sync_s"),
        sync_s_per_byte=column("sync_s_per_byte"),
        memory_bytes=column("memory_bytes"),
        in_flight=whole("in_flight"),
        recompute=whole("recompute").astype(np.bool_),
        devices=tuple(s.devices for s in flat),
        taken=tuple(s.taken for s in flat),
        pools=pools,
    )


def _mean_path(
    cluster: Cluster, arrays: OpArrays, others: Sequence[tuple[int, ...]], places: Sequence[tuple[int, ...]]
) -> tuple[float, float]:
    """(seconds per unit of amount, latency) of the replica that is worst off, to the mean of the `others`."""
    if arrays.timed:
        return 1.0, 0.0
    if not others:
        return 0.0, 0.0
    seconds, latency = 0.0, 0.0
    for k in range(len(places[0])):
        mine, theirs = [p[k] for p in places], [p[k] for p in others]
        grid = np.ix_(mine, theirs)
        seconds = max(seconds, float((1.0 / cluster.bandwidth[grid]).mean(axis=1).max()))
        latency = max(latency, float(cluster.latency_s[grid].mean(axis=1).max()))
    return seconds, latency


def _cluster_path(cluster: Cluster, arrays: OpArrays) -> tuple[float, float]:
    if arrays.timed:
        return 1.0, 0.0
    n = cluster.num_devices
    if n == 1:
        return 0.0, 0.0
    pairs = n * (n - 1)
    inverse = 1.0 / cluster.bandwidth
    return float((inverse.sum() - np.trace(inverse)) / pairs), float(cluster.latency_s.sum() / pairs)
