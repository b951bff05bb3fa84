"""Certified lower bounds: no plan of the problem takes less, whatever its partition, placement, replication and
schedule.

Valid for unequal devices, replicated stages and devices with several stages. Where all devices are equal, plans of a
problem give all replicas of a stage equal shares of the micro-batches. For both objectives:

- *work*: each device type t gets a weight y_t; an op costs at least ``min_t y_t time(t, op)`` somewhere, and the
  devices have ``sum_d y_d`` times the bound to spend. Any weights give a valid bound; the best are searched.
- *op*: the largest op on its best device. In the steady state r replicas divide its load by r, but then exchange its
  gradient; in a step the busiest replica runs ceil(M / r) micro-batches, and the exchange comes after its last one.
- *path* (iteration time): one micro-batch runs forward along the longest path of the graph and back.
- *fill* (iteration time): an op cannot start before the longest path to it, ``h``, and after its last input gradient
  the way back to the inputs, ``t``, is still to go. So for any h and t, all forward passes and input gradients of the
  ops with at least these fit all devices together in the time that is left, and all their work in the time after h;
  then comes the optimizer step. The same holds for the busiest replica of every single op.
- *sets* (steady state): the ops of the heaviest path, in groups, take sets of devices one after another; the devices
  of neighbouring sets that differ move activations, and replicas exchange gradients. Whether any sets keep all loads
  below a value is decided by a relaxed search (`decision_diagram`; `group_row` says what is in a group, and why). Ops
  beside the path count in the sum of all loads. It is proven for replicas of equal shares: where replicas may have
  unequal ones (`PlanningProblem.may_share`) it is not asked.
- *memory*: parameters, gradients and optimizer state that do not fit all devices together, or one op that fits none:
  no plan exists, and the bound is infinite.

The others hold for any shares of the micro-batches: of r replicas the busiest runs at least one of r micro-batches, and
what all of them run together is the work of the step.

With ZeRO-1 all of this holds: replicas that divide optimizer states keep all of them together, and take one whole step
of the optimizer together, which is what the sums over all devices ask for. One device alone keeps at least the part of
as many replicas as there are devices. What is exchanged takes what an all-reduce takes.

Left out, all of it on the safe side: latencies, shared ports, recomputation and activation memory; bubbles other than
those of the fill, which stages taken in turns by the same devices could shrink to those of single ops.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.optimizer_state import OPTIMIZER_PASSES, op_resident_bytes
from drlpp.cost.problem_arrays import ProblemArrays, problem_arrays
from drlpp.cost.problem_times import problem_times
from drlpp.planners.base import Budget
from drlpp.planners.bounds.group_row import SetRows, exchange_s_per_byte
from drlpp.problem import PlanningProblem

SAFETY = 1.0 - 1e-9
"""Factor on every bound against the rounding of sums."""
SEARCH_S = 5.0
SEARCHES = (
    (32, 0.015, False, 1.0),
    (1024, 0.02, False, 0.3),
    (256, 0.002, True, 0.25),
    (65536, 0.02, False, 0.9),
    (8192, 0.002, True, 1.0),
)
"""States per layer, what is small, whether skips count (`SetRows.row`), and the part of what is left of the budget that
it may use, of the searches for the bound by sets, one after another."""
FILL_STEPS = 24
"""Values of the head, and of the tail, that the bound by fill tries."""
PROBE = 512
"""Where a search has more states per layer than so many, these are asked first, and none is joined: a "yes" is sure."""
STEP, PRECISION = 1.005, 1e-3
"""Of these searches: first factor, squared until a plan may exist, and relative distance at which they end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound on the objective in seconds (inf: no plan fits), and which of the bounds it is."""

    value_s: float
    kind: str


def lower_bound(problem: PlanningProblem, budget: Budget | None = None) -> Bound:
    """The best bound on the problem's objective.

    Args:
        budget: the bound by sets is searched while it lasts; None: at most `SEARCH_S`.
    """
    budget = Budget(SEARCH_S) if budget is None else budget
    arrays = problem_arrays(problem)
    if not _may_fit(problem):
        return Bound(math.inf, "memory")
    rows = SetRows(problem, arrays)
    if problem.objective.of_one_microbatch:
        bounds = [
            Bound(rows.work_s, "work"),
            Bound(_largest_op_steady(problem, arrays), "op"),
            Bound(0.0 if problem.may_share else _sets_bound(rows, budget), "sets"),
        ]
    else:
        bounds = [Bound(_largest_op_step(problem, arrays), "op"), *_fill_bounds(problem, rows)]
    best = max(bounds, key=lambda b: b.value_s)
    return Bound(best.value_s * SAFETY, best.kind)


def _may_fit(problem: PlanningProblem) -> bool:
    """False if the parameters alone exceed the memory of all devices, or those of one op the largest device."""
    graph, training, memory = problem.graph, problem.training, problem.cluster.memory_bytes
    together = op_resident_bytes(graph, training).sum()
    alone = op_resident_bytes(graph, training, problem.cluster.num_devices).max()
    return bool(together <= memory.sum() * (1 + 1e-9) and alone <= memory.max() * (1 + 1e-9))


def _replicas(problem: PlanningProblem) -> NDArray[np.int64]:
    return np.arange(1, (problem.cluster.num_devices if problem.may_replicate else 1) + 1)


def _largest_op_steady(problem: PlanningProblem, arrays: ProblemArrays) -> float:
    """Largest over ops of the smallest over numbers of replicas of time / r + exchange."""
    r = _replicas(problem)
    exchange = exchange_s_per_byte(problem.cluster)[r] / problem.training.num_microbatches
    fastest = _fastest(problem, arrays)
    worst = 0.0
    for seconds, params in zip(fastest, arrays.ops.param_bytes, strict=True):
        if seconds > worst:  # one replica is an upper limit of this op's bound
            worst = max(worst, float((seconds / r + params * exchange).min()))
    return worst


def _largest_op_step(problem: PlanningProblem, arrays: ProblemArrays) -> float:
    """The same for a step: the busiest replica's micro-batches, then the exchange."""
    r = _replicas(problem)
    number = problem.training.num_microbatches
    exchange = exchange_s_per_byte(problem.cluster)[r]
    rounds = -(-number // r)
    paths = _longest_paths(problem)
    seconds, params = _fastest(problem, arrays)[:, None], arrays.ops.param_bytes[:, None]
    whole = paths.head_s[:, None] + seconds * rounds + params * exchange
    without_weights = (paths.head_s + paths.tail_s)[:, None] + paths.here_s[:, None] * rounds
    return float(np.maximum(whole, without_weights).min(axis=1).max())


def _fastest(problem: PlanningProblem, arrays: ProblemArrays) -> NDArray[np.float64]:
    """``[N]`` seconds of each op on its best device."""
    fastest: NDArray[np.float64] = arrays.times.total_s[np.unique(problem.cluster.type_index)].min(axis=0)
    return fastest


@dataclasses.dataclass(frozen=True)
class _LongestPaths:
    """Longest paths through the graph for one micro-batch, ``[N]`` seconds on the best device of each op.

    Attributes:
        head_s: forward passes of the ops before.
        tail_s: input gradients of the ops before, over edges that carry a gradient.
        both_s: both together, over one and the same path.
        here_s: forward pass and input gradient of the op itself. A stage's backward pass may be split in two: then
            only the input gradient is on the way.
    """

    head_s: NDArray[np.float64]
    tail_s: NDArray[np.float64]
    both_s: NDArray[np.float64]
    here_s: NDArray[np.float64]


def _longest_paths(problem: PlanningProblem) -> _LongestPaths:
    types = np.unique(problem.cluster.type_index)
    forward = problem_times(problem).forward_s[types].min(axis=0)
    back = problem_times(problem).input_grad_s[types].min(axis=0)
    here = (problem_times(problem).forward_s + problem_times(problem).input_grad_s)[types].min(axis=0)
    graph = problem.graph
    is_forward = ~graph.values.backward[graph.values.of_edge]
    ahead = set(map(tuple, graph.edge_ends[is_forward].tolist()))
    gradient = set(map(tuple, graph.edge_ends[is_forward & graph.edge_gradients].tolist()))
    head, tail, both = np.zeros((3, graph.num_ops))
    for i in range(graph.num_ops):
        for p in graph.predecessors[i]:
            if (p, i) not in ahead:
                continue
            head[i] = max(head[i], head[p] + forward[p])
            both[i] = max(both[i], head[p] + forward[p])
            if (p, i) in gradient:
                tail[i] = max(tail[i], tail[p] + back[p])
                both[i] = max(both[i], both[p] + here[p])
    return _LongestPaths(head, tail, both, here)


def _optimizer_s(problem: PlanningProblem) -> NDArray[np.float64]:
    """``[T, N]`` seconds of the optimizer step on the parameters of each op; 0 for types without a memory bandwidth."""
    passes = OPTIMIZER_PASSES[problem.training.optimizer]
    per_byte = np.zeros(len(problem_times(problem).total_s))
    for device, t in zip(problem.cluster.devices, problem.cluster.type_index.tolist(), strict=True):
        per_byte[t] = passes / device.type.memory_bandwidth if device.type.memory_bandwidth else 0.0
    return np.outer(per_byte, problem.graph.op_trained_bytes)


def _fill_bounds(problem: PlanningProblem, rows: SetRows) -> list[Bound]:
    """The bounds by work, path and fill for a step."""
    number = problem.training.num_microbatches
    paths = _longest_paths(problem)
    work = rows.shared_out(problem_times(problem).total_s)
    here = rows.shared_out(problem_times(problem).forward_s + problem_times(problem).input_grad_s)
    optimizer = float(rows.shared_out(_optimizer_s(problem)).sum())
    fill = 0.0
    for head in np.quantile(paths.head_s, np.linspace(0, 1, FILL_STEPS)):
        late = paths.head_s >= head
        fill = max(fill, head + number * float(work[late].sum()))
        for tail in np.quantile(paths.tail_s[late], np.linspace(0, 1, FILL_STEPS)):
            both = late & (paths.tail_s >= tail)
            fill = max(fill, head + tail + number * float(here[both].sum()))
    return [
        Bound(number * float(work.sum()) + optimizer, "work"),
        Bound(float((paths.both_s + paths.here_s).max()), "path"),
        Bound(fill, "fill"),
    ]


def _sets_bound(rows: SetRows, budget: Budget) -> float:
    """The bound by sets of devices; 0 where the problem is out of its reach."""
    if rows.out_of_reach:
        return 0.0
    low = rows.work_s  # what does not exist at one value exists at none below it, so every "no" is a bound
    for width, small, skips, part in SEARCHES:
        within = budget.part(part)
        high, step = math.inf, STEP
        while high - low > PRECISION * low:
            tried = min((low + high) / 2, low * step)
            found = width > PROBE and rows.find(tried, PROBE, small, within, skips=skips, relaxed=False)
            found = found or rows.find(tried, width, small, within, skips=skips)
            if found is None:
                break
            if found:
                high = tried
            else:
                low, step = tried, step**2
    return low
