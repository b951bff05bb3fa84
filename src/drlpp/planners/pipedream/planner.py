"""PipeDream's planner: a hierarchical dynamic program over cuts of the graph with replicated stages.

Source: Narayanan et al., "PipeDream: Generalized Pipeline Parallelism for DNN Training" (SOSP 2019), section 3.1, and
`optimizer/optimizer_graph_hierarchical.py` of its repository, with activation transfers charged as in the paper. A
stage of time t and P parameter bytes on r machines with bandwidth b takes the maximum of ``(t + 4 (r-1) P / (b r)) /
r`` and of its input's and output's ``2 A / (b r)``. Kept are the program's quirks: the first stage is charged no
transfers, the last none for its output; inside a host-level pipeline the gradient term of the first stage is divided
by the number of machines of the level below; every machine is used; `Input*` sources and `__getitem__*` sinks do not
count.

What differs:
- Levels come from the cluster: devices of a host (slowest link), then hosts (slowest port). Hosts of unequal size are
  taken as groups of their greatest common divisor.
- Like the original it believes all devices equal; here they have the mean speed. Stages are laid on the devices in
  the order of the hosts, and the evaluator says what the plan really takes.
- PipeDream sends gradients for every mini-batch; a synchronous step does so once. So a second plan is made with the
  gradient term divided by the number of micro-batches, and the better of the two is returned. `breakdown` holds what
  the paper's program says of its own optimum, ``pipedream_time_s``.
- On more than `MANY_DEVICES` machines a stage has a power of two of them.
- Graphs with more antichains than `max_states` allows are coarsened (an op joins an only neighbour, lightest first)
  until they have fewer; where even `min_groups` groups have more, the prefixes of the topological order are the
  states.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import NO_LINK, Cluster
from drlpp.cost.problem_times import problem_times
from drlpp.graph import OpGraph
from drlpp.graph.coarsen import coarsen
from drlpp.native import library
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.consecutive.device_states import replica_counts
from drlpp.planners.pipedream.antichains import CutStates, bits, cut_states, prefix_states
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PipeDreamParams:
    """Settings of the planner.

    Attributes:
        max_states: antichains of the exact program, at most.
        max_states_coarse: states once a graph is approximated anyway.
        max_steps: steps of the program's loops, of which pruning skips most.
        steps_per_second: fewer steps where the budget has no time for them.
        min_groups: a graph is not coarsened further.
    """

    max_states: int = 2000
    max_states_coarse: int = 400
    max_steps: float = 6e9
    steps_per_second: float = 2e8
    min_groups: int = 24


DEFAULTS = PipeDreamParams()


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """Machines that are joined by links of one bandwidth (bytes per second)."""

    machines: int
    bandwidth: float


def cluster_levels(cluster: Cluster) -> tuple[Level, ...]:
    """One level, or devices of a host and hosts, innermost first."""
    sizes = [len(h.devices) for h in cluster.hosts if h.devices]
    links = [x.bandwidth for h in cluster.hosts for x in h.all_links]
    ports = [h.network.bandwidth for h in cluster.hosts if h.network is not None and h.devices]
    if len(sizes) == 1:
        return (Level(sizes[0], min(links, default=NO_LINK.bandwidth)),)
    inner = math.gcd(*sizes)
    outer = Level(cluster.num_devices // inner, min(ports))
    return (outer,) if inner == 1 else (Level(inner, min(links)), outer)


@dataclasses.dataclass(frozen=True)
class CutCosts:
    """What the program needs of P states.

    Attributes:
        states: the cuts.
        seconds, param_bytes: ``[P]`` of all ops of the state.
        boundary_bytes: ``[P]`` charged for a cut after the state.
        contained: ``[P, P]``.
    """

    states: CutStates
    seconds: NDArray[np.float64]
    param_bytes: NDArray[np.float64]
    boundary_bytes: NDArray[np.float64]
    contained: NDArray[np.bool_]


def cut_costs(
    states: CutStates, seconds: NDArray[np.float64], params: NDArray[np.float64], outputs: NDArray[np.float64]
) -> CutCosts:
    """Sums costs per op ``[N]`` over the states."""
    members = [bits(m) for m in states.masks]
    return CutCosts(
        states=states,
        seconds=np.array([float(seconds[m].sum()) for m in members]),
        param_bytes=np.array([float(params[m].sum()) for m in members]),
        boundary_bytes=np.array([float(outputs[list(b)].sum()) for b in states.boundary]),
        contained=states.contained(),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class PipelinePlan:
    """The optimum of the program: its time per mini-batch, and per stage where each machine group starts.

    Attributes:
        time_s: seconds per mini-batch of the slowest stage.
        stages: (state before, state after, positions of its machines in the cluster's order).
    """

    time_s: float
    stages: tuple[tuple[int, int, tuple[int, ...]], ...]


def optimal_pipeline(
    costs: CutCosts, levels: Sequence[Level], gradient_share: float = 1.0, replicate: bool = True
) -> PipelinePlan:
    """The hierarchical dynamic program.

    Args:
        levels: innermost first.
        gradient_share: part of the gradient exchange that each mini-batch is charged (1 as in the paper).
        replicate: stages may run on several machines; if not, there are as many stages as machines (and the time is
            infinite where the graph has too few states for that).
    """
    count = costs.states.num_states
    stage_s = np.where(costs.contained, costs.seconds[None, :] - costs.seconds[:, None], np.inf)
    params = costs.param_bytes[None, :] - costs.param_bytes[:, None]
    tables = []
    within = 1
    for depth, level in enumerate(levels):
        final = depth == len(levels) - 1
        table = _fill_level(
            LevelProgram(
                stage_s=stage_s,
                sync_bytes=params * gradient_share,
                boundary_bytes=costs.boundary_bytes,
                contained=costs.contained,
                machines=level.machines,
                bandwidth=level.bandwidth,
                machines_inside=within,
                num_starts=1 if final else count,
                replica_options=np.array(replica_counts(level.machines) if replicate else (1,), dtype=np.int64),
                replicate=replicate,
            )
        )
        tables.append(table)
        stage_s = np.where(costs.contained, table.best_s[:, :, -1], np.inf)
        within = level.machines
    time_s = float(tables[-1].best_s[0, count - 1, -1])
    if not math.isfinite(time_s):
        return PipelinePlan(time_s, ())
    stages = _unfold(tables, [level.machines for level in levels], 0, count - 1, len(levels) - 1)
    return PipelinePlan(time_s, tuple(stages))


class LevelProgram(NamedTuple):
    """The program of one level, with P states.

    Attributes:
        stage_s: ``[P, P]`` seconds of a stage on one machine of the level; inf where there is no such stage.
        sync_bytes: ``[P, P]`` bytes of a stage's gradients, times the part that is charged.
        boundary_bytes: ``[P]`` what crosses the cut behind a state.
        contained: ``[P, P]`` the first state is a part of the second.
        machines, bandwidth: of the level.
        machines_inside: machines of the level below in one of these.
        num_starts: states that a stretch may begin at.
        replica_options: machines that a last stage may take.
        replicate: a stage may run on several machines.
    """

    stage_s: NDArray[np.float64]
    sync_bytes: NDArray[np.float64]
    boundary_bytes: NDArray[np.float64]
    contained: NDArray[np.bool_]
    machines: int
    bandwidth: float
    machines_inside: int
    num_starts: int
    replica_options: NDArray[np.int64]
    replicate: bool


class LevelTable(NamedTuple):
    """Of the stretch from a start to a state on m machines, at ``[start, state, m - 1]``.

    Attributes:
        best_s: seconds of its slowest stage.
        split: state before its last stage; -1: it is one stage.
        replicas: machines of its last stage.
    """

    best_s: NDArray[np.float64]
    split: NDArray[np.int64]
    replicas: NDArray[np.int64]


def _fill_level(program: LevelProgram) -> LevelTable:
    return LevelTable(**library.fill_pipedream_level(program))


def _unfold(
    tables: Sequence[LevelTable], machines: Sequence[int], start: int, stop: int, depth: int
) -> list[tuple[int, int, tuple[int, ...]]]:
    """Stages between two states and the positions of their machines inside one machine of the level above."""
    if depth < 0:
        return [(start, stop, (0,))]
    split, replicas = tables[depth].split, tables[depth].replicas
    size = math.prod(machines[:depth])
    parts = []
    left, end = machines[depth], stop
    while True:
        r, k = int(replicas[start, end, left - 1]), int(split[start, end, left - 1])
        parts.append((k if k >= 0 else start, end, left - r, r))
        if k < 0:
            break
        left, end = left - r, k
    out = []
    for begin, end, first, r in reversed(parts):
        for a, b, inside in _unfold(tables, machines, begin, end, depth - 1):
            # micro-batch m goes to machine m mod r of the group in every stage of it
            out.append((a, b, tuple((first + m) * size + i for i in inside for m in range(r))))
    return out


@dataclasses.dataclass(frozen=True)
class ReducedGraph:
    """The ops that the program looks at, in groups; `group_of_op` is -1 for ops that it drops.

    Attributes:
        predecessors: of the groups.
    """

    group_of_op: NDArray[np.int64]
    predecessors: tuple[tuple[int, ...], ...]


def reduce_graph(graph: OpGraph, group_of_op: NDArray[np.int64] | None = None) -> ReducedGraph:
    """Drops `Input*` sources, then `__getitem__*` sinks, as PipeDream does; each op a group unless groups are given."""
    keep = np.ones(graph.num_ops, dtype=np.bool_)
    if graph.num_ops > 1:
        inputs = [i for i, op in enumerate(graph.ops) if op.kind.startswith("Input") and not graph.predecessors[i]]
        sinks = [i for i, op in enumerate(graph.ops) if op.kind.startswith("__getitem__") and not graph.successors[i]]
        keep[inputs + sinks] = False
        if not keep.any():
            keep[:] = True
    given = np.arange(graph.num_ops) if group_of_op is None else group_of_op
    used = np.unique(given[keep])
    number = np.full(int(given.max()) + 1, -1, dtype=np.int64)
    number[used] = np.arange(len(used))
    groups = np.where(keep, number[given], -1)
    before: list[set[int]] = [set() for _ in used]
    for a, b in graph.arcs.tolist():
        if keep[a] and keep[b] and groups[a] != groups[b]:
            before[groups[b]].add(int(groups[a]))
    return ReducedGraph(groups, tuple(tuple(sorted(x)) for x in before))


def mean_seconds(problem: PlanningProblem) -> NDArray[np.float64]:
    """``[num_ops]`` seconds of forward and backward on a device of the mean speed."""
    per_device = problem_times(problem).total_s[problem.cluster.type_index]
    if (per_device == per_device[0]).all():
        return np.asarray(per_device[0])
    speed = np.divide(1.0, per_device, out=np.full_like(per_device, np.inf), where=per_device > 0).mean(axis=0)
    return np.asarray(1.0 / speed)


def output_bytes(graph: OpGraph) -> NDArray[np.float64]:
    """``[num_ops]`` bytes of what each op hands on: its tensors on edges, or all its outputs if it has none.

    Where edges carry transfer times: half of the seconds, since the program charges each cut twice.
    """
    if graph.has_transfer_times:
        seconds: dict[tuple[int, str], float] = {}
        for e in graph.edges:
            seconds[graph.index[e.before], e.tensor] = e.transfer_s or 0.0
        out = np.zeros(graph.num_ops)
        for (op, _), s in seconds.items():
            out[op] += s / 2
        return out
    names: list[set[str]] = [set() for _ in graph.ops]
    for e in graph.edges:
        names[graph.index[e.src]].add(e.tensor)
    return np.array(
        [
            sum(graph.tensor_bytes[t] for t in sorted(tensors)) if tensors else op.output_bytes
            for op, tensors in zip(graph.ops, names, strict=True)
        ]
    )


def max_states(levels: Sequence[Level], max_steps: float, most: int = DEFAULTS.max_states) -> int:
    """The number of states with which the program takes about `max_steps` steps, at most `most`."""

    def steps(states: int) -> float:
        total = 0.0
        for depth, level in enumerate(levels):
            options = len(replica_counts(level.machines)) * level.machines / 2
            total += options * (states**2 / 2 if depth == len(levels) - 1 else states**3 / 6)
        return total

    return next((s for s in range(most, 20, -20) if steps(s) <= max_steps), 20)


def pipedream_cuts(
    problem: PlanningProblem,
    levels: Sequence[Level],
    max_steps: float | None = None,
    params: PipeDreamParams = DEFAULTS,
) -> tuple[ReducedGraph, CutCosts]:
    """The graph as the program sees it: exact where it has few antichains, else coarsened."""
    limit = max_states(levels, params.max_steps if max_steps is None else max_steps, params.max_states)
    graph = problem.graph
    seconds = mean_seconds(problem)
    reduced = reduce_graph(graph)
    states = cut_states(reduced.predecessors, limit)
    groups = graph.num_ops
    while states is None:
        groups = min(groups, 512) * 3 // 4
        if groups < params.min_groups:
            reduced = reduce_graph(graph)
            states = prefix_states(reduced.predecessors, min(limit, params.max_states_coarse))
            break
        reduced = reduce_graph(graph, coarsen(graph, groups, seconds))
        states = cut_states(reduced.predecessors, min(limit, params.max_states_coarse))
    return reduced, reduced_costs(problem, reduced, states)


def reduced_costs(problem: PlanningProblem, reduced: ReducedGraph, states: CutStates) -> CutCosts:
    """Costs of states over the groups of a reduced graph; a group hands on what its ops hand on to other groups."""
    graph = problem.graph
    kept = reduced.group_of_op >= 0
    num = len(reduced.predecessors)
    leaves = ~np.isin(np.arange(graph.num_ops), graph.arcs[:, 0])
    for a, b in graph.arcs.tolist():
        if reduced.group_of_op[a] != reduced.group_of_op[b]:
            leaves[a] = True

    def per_group(values: NDArray[np.float64], which: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(reduced.group_of_op[which], weights=values[which], minlength=num).astype(np.float64)

    return cut_costs(
        states,
        per_group(mean_seconds(problem), kept),
        per_group(graph.op_trained_bytes, kept),
        per_group(output_bytes(graph), kept & leaves),
    )


def plan_to_assignment(
    problem: PlanningProblem, reduced: ReducedGraph, states: CutStates, plan: PipelinePlan, devices: Sequence[int]
) -> Assignment:
    """Lays the stages on `devices` (machine position -> device); dropped ops join the stage of a neighbour."""
    graph = problem.graph
    labels = np.full(graph.num_ops, -1, dtype=np.int64)
    for s, (start, stop, _) in enumerate(plan.stages):
        inside = np.zeros(len(reduced.predecessors), dtype=np.bool_)
        inside[bits(states.masks[stop] & ~states.masks[start])] = True
        labels[(reduced.group_of_op >= 0) & inside[reduced.group_of_op]] = s
    for i in range(graph.num_ops - 1, -1, -1):
        if labels[i] < 0 and graph.successors[i]:
            labels[i] = min(labels[j] for j in graph.successors[i])
    for i in range(graph.num_ops):
        if labels[i] < 0:
            labels[i] = max((labels[j] for j in graph.predecessors[i]), default=0)
    placed = {s: tuple(devices[p] for p in machines) for s, (_, _, machines) in enumerate(plan.stages)}
    return Assignment.compact(np.maximum(labels, 0), placed)


class PipeDream:
    """PipeDream's optimizer on our problem."""

    name = "pipedream"
    summary = "hierarchical dynamic program with replication (PipeDream, SOSP 2019)"

    def __init__(self, params: PipeDreamParams = DEFAULTS) -> None:
        self.params = params

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        return search.result(offer_pipelines(search, self.params))


def offer_pipelines(search: Search, params: PipeDreamParams = DEFAULTS) -> dict[str, float]:
    """Offers PipeDream's plan, and the one of its program if the gradients are exchanged once a step.

    Returns:
        The time of the first in PipeDream's own model, and the number of states of its program.
    """
    problem, budget = search.problem, search.budget
    levels = cluster_levels(problem.cluster)
    if not problem.may_replicate:
        levels = (Level(problem.cluster.num_devices, 1.0),)
    max_steps = min(params.max_steps, params.steps_per_second * budget.left_s)
    reduced, costs = pipedream_cuts(problem, levels, max_steps, params)
    devices = tuple(range(problem.cluster.num_devices))
    paper = _best_pipeline(costs, levels, 1.0, problem.may_replicate)
    search.offer(plan_to_assignment(problem, reduced, costs.states, paper, devices))
    if not budget.spent and problem.may_replicate and problem.training.num_microbatches > 1:
        amortised = optimal_pipeline(costs, levels, 1.0 / problem.training.num_microbatches)
        search.offer(plan_to_assignment(problem, reduced, costs.states, amortised, devices))
    return {"pipedream_time_s": paper.time_s, "cut_states": float(costs.states.num_states)}


def _best_pipeline(costs: CutCosts, levels: tuple[Level, ...], gradient_share: float, replicate: bool) -> PipelinePlan:
    """As many machines as there are, or as many as there are stages to make where none may be replicated."""
    if not replicate:
        levels = (Level(min(levels[0].machines, costs.states.num_states - 1), levels[0].bandwidth),)
    while True:
        plan = optimal_pipeline(costs, levels, gradient_share, replicate)
        if math.isfinite(plan.time_s) or levels[0].machines == 1:
            return plan
        levels = (Level(levels[0].machines - 1, levels[0].bandwidth),)
