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
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster
from drlpp.cost import all_reduce_s
from drlpp.cost.optimizer_state import resident_factor
from drlpp.cost.problem_arrays import ProblemArrays
from drlpp.cost.problem_times import problem_times
from drlpp.plan.settings import AGAIN, PLAIN, StageSettings
from drlpp.planners.space.shares import busiest_replica
from drlpp.problem import PlanningProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MANY_DEVICES = 48
"""Above this number, replicas are powers of two at aligned positions only."""


@dataclasses.dataclass(frozen=True)
class DeviceStates:
    """Q states and E steps, sorted by the state they lead to (state 0: no device taken).

    Attributes:
        capacity: ``[Q]`` sum of the most work that the devices taken can do, in seconds of the fastest type of each op.
        step_ptr: ``[Q + 1]`` steps that lead to each state.
        rest: ``[E]`` state of the stages after this one.
        replicas, type_index, speed: ``[E]``; `type_index` of the busiest replica, `speed` of it, optimistic.
        share: ``[E]`` part of the micro-batches that the busiest replica runs.
        seconds_in, seconds_out: ``[E]`` per unit of amount received from before and sent to behind.
        latency_in_s, latency_out_s: ``[E]`` of one message.
        sync_s, sync_s_per_byte: ``[E]`` of the gradient all-reduce, per micro-batch.
        memory_bytes: ``[E]`` of the smallest replica.
        resident_factor: ``[E]`` bytes of parameter, gradient and optimizer state per trained byte, on each replica.
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
    resident_factor: NDArray[np.float64]
    in_flight: NDArray[np.int64]
    recompute: NDArray[np.bool_]
    devices: tuple[tuple[int, ...], ...]
    taken: tuple[tuple[int, int], ...]
    pools: tuple[tuple[int, ...], ...]

    @property
    def num_states(self) -> int:
        return len(self.capacity)

    def placement(self, steps: Sequence[int]) -> tuple[list[tuple[int, ...]], list[StageSettings]]:
        """Devices and settings of the stages of a pipeline; of a class, devices are taken in order."""
        settings = [AGAIN if flag else PLAIN for flag in self.recompute[list(steps)].tolist()]
        if not self.pools:
            return [self.devices[step] for step in steps], settings
        free = [list(pool) for pool in self.pools]
        placed = []
        for step in steps:
            pool, number = self.taken[step]
            placed.append(tuple(free[pool][:number]))
            del free[pool][:number]
        return placed, settings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """Steps of one kind: arrays over them, or one value for all; see `DeviceStates`."""

    state: Ints
    rest: Ints
    replicas: int
    type_index: Ints | int
    speed: Floats | float
    share: Floats | float
    seconds_in: Floats | float
    seconds_out: Floats | float
    latency_in_s: Floats | float
    latency_out_s: Floats | float
    sync_s: Floats | float
    sync_s_per_byte: Floats | float
    memory_bytes: Floats | float
    resident_factor: float
    in_flight: Ints | int
    recompute: bool
    devices: Sequence[tuple[int, ...]]
    taken: tuple[int, int]


def _most_work(problem: PlanningProblem, speeds: Floats) -> Floats:
    """``[T]`` the most work, in seconds of the fastest type of each op, that a device does in a second of its stage.

    Where replicas share by the speed at the whole model, a stage may suit its busiest replica better than that.
    """
    if not problem.may_share:
        return speeds
    model_s = problem_times(problem).total_s.sum(axis=1)
    return np.asarray(np.maximum(speeds, (speeds * model_s).max() / np.maximum(model_s, 1e-300)))


def relative_speeds(arrays: ProblemArrays) -> NDArray[np.float64]:
    """``[T]`` best ratio, over the ops, of the fastest type's time to this type's (1 for a type that is fastest)."""
    seconds = arrays.times.total_s
    ratio = np.divide(seconds.min(axis=0), seconds, out=np.zeros_like(seconds), where=seconds > 0)
    return np.asarray(np.maximum(ratio.max(axis=1), 1e-9))


class AllReduceTable:
    """Seconds of all-reduces as (constant, per byte), remembered by the kind of device set."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._host: list[int] = cluster.host_index.tolist()
        ports = [(host.link, host.network) for host in cluster.hosts]
        self._ports = [ports.index(p) for p in ports]
        self._alike = bool((cluster.sites_on <= 1).all())  # so that only the number of devices of a host counts
        self._known: dict[Hashable, tuple[float, float]] = {}

    def __call__(self, devices: Sequence[int]) -> tuple[float, float]:
        if len(devices) < 2:
            return 0.0, 0.0
        hosts = Counter([self._host[d] for d in devices])
        of_hosts = frozenset(Counter([(self._ports[h], n) for h, n in hosts.items()]).items())
        key: Hashable = of_hosts if self._alike else tuple(sorted(devices))
        if key not in self._known:
            small, large = (all_reduce_s(self._cluster, devices, x) for x in (1.0, 1e9 + 1.0))
            per_byte = (large - small) / 1e9
            self._known[key] = (max(0.0, small - per_byte), per_byte)
        return self._known[key]


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
    arrays: ProblemArrays,
    order: Sequence[tuple[int, ...]],
    replicas: Sequence[int],
    *,
    reach: int = 1,
    recompute: bool = False,
    by_speed: bool = False,
) -> DeviceStates:
    """States "the last k places of `order`"; a stage takes neighbouring places.

    Args:
        order: places; each holds the same number d of devices, which replicate what is there. Micro-batch m uses device
            m mod d of every place, so transfers stay between devices of equal index.
        replicas: numbers of places that a stage may take.
        reach: how many places before and behind a stage its transfers are averaged over (the program does not know how
            many replicas the neighbouring stages have).
        recompute: let each stage choose to run its forward pass again.
        by_speed: unequal devices have shares by speed, if the problem lets them.
    """
    cluster, places = problem.cluster, np.array(order, dtype=np.int64)
    total, depth = places.shape
    types, num_microbatches = cluster.type_index, problem.training.num_microbatches
    speeds, reduce_s = relative_speeds(arrays), AllReduceTable(cluster)
    paths = _Paths(cluster, places, arrays.ops.timed)
    parts: list[_Steps] = []
    for r in sorted(x for x in set(replicas) if x <= total):
        first = np.arange(0, total - r + 1, r if total > MANY_DEVICES else 1)
        behind, number = first + r, r * depth
        rows = first[:, None] + np.arange(r)
        devices = places[rows].reshape(len(first), number)
        groups = [tuple(group) for group in devices.tolist()]
        busiest = [busiest_replica(problem, group, by_speed=by_speed) for group in groups]
        type_index = np.array([b.type_index for b in busiest])
        sync = np.array([reduce_s(group) for group in groups]) / num_microbatches
        seconds_in, latency_in = paths.worst(rows, np.maximum(0, first - reach), first)
        seconds_out, latency_out = paths.worst(rows, behind, np.minimum(total, behind + reach))
        base = _Steps(
            state=total - first,
            rest=total - behind,
            replicas=number,
            type_index=type_index,
            speed=speeds[type_index],
            share=np.array([b.share for b in busiest]),
            seconds_in=seconds_in,
            latency_in_s=latency_in,
            seconds_out=seconds_out,
            latency_out_s=latency_out,
            sync_s=sync[:, 0],
            sync_s_per_byte=sync[:, 1],
            memory_bytes=cluster.memory_bytes[devices].min(axis=1),
            resident_factor=resident_factor(problem.graph, problem.training, number),
            in_flight=np.minimum(-(-num_microbatches // number), -(-(total - first) // r)),
            recompute=False,
            devices=groups,
            taken=(0, number),
        )
        parts.append(base)
        if recompute:
            parts.append(dataclasses.replace(base, recompute=True))
    parts.append(_idle(np.arange(1, total + 1), np.arange(total)))
    most = (_most_work(problem, speeds) if by_speed else speeds)[types[places]].max(axis=1)
    return _pack(np.concatenate(([0.0], np.cumsum(depth * most[::-1]))), parts, ())


def by_class(
    problem: PlanningProblem, arrays: ProblemArrays, replicas: Sequence[int], limit: int
) -> DeviceStates | None:
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
    reduce_s, speeds = AllReduceTable(cluster), relative_speeds(arrays)
    kinds = [int(cluster.type_index[pool[0]]) for pool in pools]
    count = np.array(sorted(itertools.product(*(range(x) for x in shape)), key=lambda c: (sum(c), c)), dtype=np.int64)
    number = np.empty(shape, dtype=np.int64)
    number[tuple(count.T)] = range(len(count))
    num_microbatches = problem.training.num_microbatches
    seconds, latency = _cluster_path(cluster, arrays)

    def without(states: Ints, c: int, r: int) -> Ints:
        rest = count[states].copy()
        rest[:, c] -= r
        return np.asarray(number[tuple(rest.T)])

    def of_class(c: int) -> Iterator[_Steps]:
        pool = pools[c]
        for r in (x for x in replicas if x <= len(pool)):
            states = np.flatnonzero(count[:, c] >= r)
            taken = [pool[len(pool) - n : len(pool) - n + r] for n in range(r, len(pool) + 1)]
            sync = np.array([reduce_s(group) for group in taken])[count[states, c] - r] / num_microbatches
            yield _Steps(
                state=states,
                rest=without(states, c, r),
                replicas=r,
                type_index=kinds[c],
                speed=float(speeds[kinds[c]]),
                share=busiest_replica(problem, pool[:r], by_speed=False).share,
                seconds_in=seconds,
                latency_in_s=latency,
                seconds_out=seconds,
                latency_out_s=latency,
                sync_s=sync[:, 0],
                sync_s_per_byte=sync[:, 1],
                memory_bytes=float(cluster.memory_bytes[pool[0]]),
                resident_factor=resident_factor(problem.graph, problem.training, r),
                in_flight=np.minimum(-(-num_microbatches // r), -(-count[states].sum(axis=1) // r)),
                recompute=False,
                devices=[()] * len(states),
                taken=(c, r),
            )
        states = np.flatnonzero(count[:, c] > 0)
        yield _idle(states, without(states, c, 1))

    return _pack(count @ speeds[kinds], [steps for c in range(len(pools)) for steps in of_class(c)], pools)


def _idle(state: Ints, rest: Ints) -> _Steps:
    return _Steps(
        state=state,
        rest=rest,
        replicas=0,
        type_index=0,
        speed=1.0,
        share=0.0,
        seconds_in=0.0,
        seconds_out=0.0,
        latency_in_s=0.0,
        latency_out_s=0.0,
        sync_s=0.0,
        sync_s_per_byte=0.0,
        memory_bytes=0.0,
        resident_factor=0.0,
        in_flight=0,
        recompute=False,
        devices=[()] * len(state),
        taken=(0, 0),
    )


def _pack(capacity: Floats, parts: Sequence[_Steps], pools: tuple[tuple[int, ...], ...]) -> DeviceStates:
    state = np.concatenate([part.state for part in parts])
    order = np.argsort(state, kind="stable")

    def column(name: str, dtype: type) -> NDArray[Any]:
        columns: list[NDArray[Any]] = [
            np.broadcast_to(np.asarray(getattr(p, name), dtype=dtype), len(p.state)) for p in parts
        ]
        return np.concatenate(columns)[order]

    devices = [group for part in parts for group in part.devices]
    taken = [part.taken for part in parts for _ in range(len(part.state))]
    return DeviceStates(
        capacity=capacity,
        step_ptr=np.searchsorted(state[order], np.arange(len(capacity) + 1)).astype(np.int64),
        rest=column("rest", np.int64),
        replicas=column("replicas", np.int64),
        type_index=column("type_index", np.int64),
        speed=column("speed", np.float64),
        share=column("share", np.float64),
        seconds_in=column("seconds_in", np.float64),
        seconds_out=column("seconds_out", np.float64),
        latency_in_s=column("latency_in_s", np.float64),
        latency_out_s=column("latency_out_s", np.float64),
        sync_s=column("sync_s", np.float64),
        sync_s_per_byte=column("sync_s_per_byte", np.float64),
        memory_bytes=column("memory_bytes", np.float64),
        resident_factor=column("resident_factor", np.float64),
        in_flight=column("in_flight", np.int64),
        recompute=column("recompute", np.bool_),
        devices=tuple(devices[i] for i in order.tolist()),
        taken=tuple(taken[i] for i in order.tolist()),
        pools=pools,
    )


class _Paths:
    """Paths between the devices of equal index of places, which depend on their sites alone.

    Args:
        places: ``[P, d]`` devices.
        timed: amounts are seconds already.
    """

    def __init__(self, cluster: Cluster, places: Ints, timed: bool) -> None:
        self._sites = cluster.site_index[places]
        bandwidth = cluster.site_bandwidth
        self._seconds = np.divide(1.0, bandwidth, out=np.zeros_like(bandwidth), where=bandwidth > 0)
        self._latency_s = cluster.site_latency_s
        self._timed = timed

    def worst(self, rows: Ints, low: Ints, high: Ints) -> tuple[Floats, Floats]:
        """Of stages on the places `rows` ``[S, r]``, to the mean of the places from `low` to before `high` ``[S]``.

        Returns:
            Seconds per unit of amount and latency of the replica that is worst off, ``[S]``; 0 where there is no such
            place.
        """
        if self._timed:
            return np.ones(len(rows)), np.zeros(len(rows))
        number = high - low
        seconds, latency = np.zeros(len(rows)), np.zeros(len(rows))
        for sites in self._sites.T:
            before = np.zeros((len(sites) + 1, len(self._seconds)))
            before[np.arange(len(sites)) + 1, sites] = 1.0
            before = before.cumsum(axis=0)
            part = (before[high] - before[low]) / np.maximum(number, 1)[:, None]
            for table, out in ((self._seconds, seconds), (self._latency_s, latency)):
                np.maximum(out, np.take_along_axis(part @ table, sites[rows], axis=1).max(axis=1), out=out)
        return seconds, latency


def _cluster_path(cluster: Cluster, arrays: ProblemArrays) -> tuple[float, float]:
    if arrays.ops.timed:
        return 1.0, 0.0
    n = cluster.num_devices
    if n == 1:
        return 0.0, 0.0
    pairs = n * (n - 1)
    inverse = 1.0 / cluster.bandwidth
    return float((inverse.sum() - np.trace(inverse)) / pairs), float(cluster.latency_s.sum() / pairs)
