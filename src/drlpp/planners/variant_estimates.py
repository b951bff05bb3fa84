"""What is known of the variants of a problem before any of them is built: closed forms.

A variant's groups have speeds: of each device type, the work of a micro-batch that can be divided by the length of the
group, the rest, and the collectives inside. Stages in proportion to speed, as many as are best of some numbers, give an
estimate of the step with the bubble, the gradient exchange, and a penalty where memory is short. Times and bytes are
taken as linear in the samples of a micro-batch: the graph is priced at its smallest and its largest size only.

Left out: that stages are of whole ops, transfers between stages, which splits the ops really take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import NO_LINK, Link
from drlpp.cluster.usual_groupings import DEGREES, UsualGroupings
from drlpp.cost.collectives import ring_s
from drlpp.cost.op_times import op_times
from drlpp.cost.optimizer_state import resident_factor, state_bytes
from drlpp.graph import Op
from drlpp.graph.splits import PARTIAL_SUM
from drlpp.problem import PlanningProblem

Floats = NDArray[np.float64]
Forms = Sequence[tuple[int, Mapping[int, int]]]
"""Of `UsualGroupings.forms`."""
RECOMPUTED = 1.33
"""Times as long where all is computed again."""
KEPT_AGAIN = 0.1
"""Part of the activations that is kept then."""
TOO_LARGE = 10.0
"""Times as long at least where no stages fit."""
ROOM = 0.95
"""Part of the memory that stages can fill."""
_TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class VariantTable:
    """All variants of a problem.

    Attributes:
        keys: (number of the size, number of the grouping) of each.
        estimate_s: ``[V]`` seconds of the objective; `TOO_LARGE` times as many at least where nothing fits.
    """

    keys: list[tuple[int, int]]
    estimate_s: Floats


def variant_table(problem: PlanningProblem, sizes: Sequence[int], groupings: UsualGroupings) -> VariantTable:
    """Estimates of all variants of a problem.

    Args:
        sizes: samples per micro-batch to choose from, ascending.
    """
    prices, at = _prices(problem, sizes), np.array(sizes, dtype=np.float64)
    rows = [_of_grouping(problem, at, prices, groupings.forms(g)) for g in range(len(groupings))]
    keys = [(size, g) for g in range(len(rows)) for size in range(len(sizes))]
    return VariantTable(keys, np.concatenate(rows))


@dataclasses.dataclass(frozen=True)
class _Prices:
    """Of the whole graph; the last axis is the size.

    Attributes:
        work_s: ``[K, degrees, sizes]`` seconds of a micro-batch in a group, by device type, without collectives.
        kept: ``[degrees, sizes]`` bytes that a group keeps of a micro-batch.
        summed: ``[sizes]`` bytes that a group sums inside for a micro-batch in one pass, in so many `sums`.
    """

    work_s: Floats
    kept: Floats
    summed: Floats
    sums: int

    def inside_s(self, length: int, link: Link) -> Floats:
        """``[sizes]`` seconds of the sums in a group of so many devices for a micro-batch, forward and backward."""
        if length < 2 or not self.sums:
            return np.zeros(len(self.summed))
        return np.array([2 * self.sums * ring_s(length, each, link) for each in (self.summed / self.sums).tolist()])


def _prices(problem: PlanningProblem, sizes: Sequence[int]) -> _Prices:
    graphs = [problem.graph.with_samples(size) for size in dict.fromkeys((sizes[0], sizes[-1]))]
    ops, degree = graphs[0].ops, np.array(DEGREES, dtype=np.float64)
    times = [op_times(graph, problem.cluster).total_s for graph in graphs]
    divided = np.array([[d > 1 and any(s.fits(d) for s in op.splits) for op in ops] for d in DEGREES])
    if "sp" in problem.space.parallelism:
        whole = np.ones((len(DEGREES), len(ops)))
    else:
        whole = np.where(divided, 1.0, degree[:, None])
    sums = np.array([_gives_sum(op) for op in ops])
    outputs = [np.array([op.output_bytes for op in graph.ops]) for graph in graphs]

    def line(values: Sequence[Floats]) -> Floats:
        """Values at the first and at the last size -> at all sizes."""
        if len(graphs) == 1:
            return np.stack(values, axis=-1)
        part = (np.array(sizes, dtype=np.float64) - sizes[0]) / (sizes[-1] - sizes[0])
        return np.asarray(values[0][..., None] + (values[1] - values[0])[..., None] * part)

    return _Prices(
        work_s=line([(t[:, None, :] / np.where(divided, degree[:, None], 1.0)).sum(axis=2) for t in times]),
        kept=line([(graph.op_saved_bytes * whole).sum(axis=1) for graph in graphs]),
        summed=line([np.asarray((out * sums).sum() / 2) for out in outputs]),  # every other product gives a sum
        sums=int(sums.sum()) // 2,
    )


def _gives_sum(op: Op) -> bool:
    return bool(op.params) and any(part.dim == PARTIAL_SUM for split in op.splits for part in split.gives)


@dataclasses.dataclass(frozen=True)
class _Groups:
    """The kinds of groups of a grouping, ``[k]`` each.

    Attributes:
        number, length, memory: how many groups, devices of each, and their bytes.
        link, port: bytes per second between devices of a host, and of each of them to other hosts.
        on_host: devices of a host.
        work_s, inside_s: ``[k, sizes]`` seconds of a micro-batch in a group, without and of its collectives.
    """

    number: Floats
    length: Floats
    memory: Floats
    link: Floats
    port: Floats
    on_host: Floats
    work_s: Floats
    inside_s: Floats


def _groups(problem: PlanningProblem, prices: _Prices, forms: Forms) -> _Groups:
    cluster = problem.cluster
    rows, work, inside = [], [], []
    for device, form in forms:
        host, kind = cluster.hosts[cluster.devices[device].host], int(cluster.type_index[device])
        link = host.slowest_link or NO_LINK
        port = host.network.bandwidth / len(host.devices) if host.network else link.bandwidth
        for length, number in form.items():
            inside.append(prices.inside_s(length, link))
            work.append(prices.work_s[kind, DEGREES.index(length)])
            memory = cluster.device_types[kind].memory_bytes * length
            rows.append((number, length, memory, link.bandwidth, port, len(host.devices)))
    table = np.array(rows, dtype=np.float64).T
    fields = dict(zip(("number", "length", "memory", "link", "port", "on_host"), table, strict=True))
    return _Groups(**fields, work_s=np.array(work), inside_s=np.array(inside))


def _of_grouping(problem: PlanningProblem, sizes: Floats, prices: _Prices, forms: Forms) -> Floats:
    """``[sizes]`` estimates of one grouping: with the number of stages that is best."""
    groups = _groups(problem, prices, forms)
    total = float(groups.number.sum())
    choices = [_with_stages(problem, prices, groups, sizes, stages) for stages in _numbers_of_stages(problem, total)]
    return np.asarray(np.min(choices, axis=0))


def _numbers_of_stages(problem: PlanningProblem, groups: float) -> list[int]:
    """Powers of two and the most; only that where stages have no replicas."""
    most = min(int(groups), problem.graph.num_ops)
    if not problem.may_replicate:
        return [most]
    return sorted({1 << i for i in range(most.bit_length())} | {most})


def _with_stages(problem: PlanningProblem, prices: _Prices, groups: _Groups, sizes: Floats, stages: int) -> Floats:
    """``[sizes]`` estimates with so many stages, equal replicas and work by speed."""
    total, micro, number = float(groups.number.sum()), problem.global_batch / sizes, groups.number[:, None]
    speed = 1 / np.maximum(groups.work_s + groups.inside_s, _TINY)  # [k, sizes]
    all_speed = (speed * number).sum(axis=0)
    replicas = max(1, int(total) // stages)
    rounds = np.ceil(micro / replicas)
    idle, bubble = rounds * replicas / micro, 1 + (stages - 1) / rounds
    exchange_s = np.full(len(sizes), _exchange_s(problem, groups, stages, replicas))
    if problem.objective.of_one_microbatch:
        idle, bubble, exchange_s = np.ones_like(idle), np.ones_like(bubble), np.zeros_like(exchange_s)
    graph = problem.graph
    state = float(
        graph.op_trained_bytes.sum() * resident_factor(graph, problem.training, replicas) + graph.op_frozen_bytes.sum()
    )
    kept = prices.kept[[DEGREES.index(int(length)) for length in groups.length]] * np.minimum(rounds, stages)
    room = float((groups.memory * groups.number).sum()) / replicas
    mean_kept = (kept * number).sum(axis=0) / total
    need, need_again = (state + mean_kept) / room, (state + KEPT_AGAIN * mean_kept) / room
    own = speed / all_speed * total / stages  # [k, sizes] part of the model that a group has
    unequal = (own * (state + kept) / groups.memory[:, None]).max(axis=0)
    seconds = micro / all_speed * idle * bubble + exchange_s
    seconds = seconds * np.where(need > ROOM, RECOMPUTED, np.clip(unequal, 1.0, RECOMPUTED))
    seconds = seconds * np.where(need_again > ROOM, TOO_LARGE * need_again, 1.0)
    return np.asarray(np.maximum(seconds, _TINY))


def _exchange_s(problem: PlanningProblem, groups: _Groups, stages: int, replicas: int) -> float:
    """Seconds in which the replicas of a stage sum their gradients."""
    graph = problem.graph
    gradient = float(graph.op_trained_bytes.sum()) * state_bytes(graph, problem.training).gradient / stages
    wire = np.where(replicas * groups.length <= groups.on_host, groups.link, groups.port)
    return ring_s(replicas, gradient, Link(bandwidth=float((wire * groups.length).min())))
