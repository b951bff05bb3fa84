"""Certified lower bounds: no plan of the problem takes less, whatever its partition, placement, replication and
schedule.

Valid for unequal devices, replicated stages and devices with several stages. For both objectives:

- *work*: each device type t gets a weight y_t; an op costs at least ``min_t y_t time(t, op)`` somewhere, and the
  devices have ``sum_d y_d`` times the bound to spend. Any weights give a valid bound; the best are searched.
- *op*: the largest op on its best device. In the steady state r replicas divide its load by r, but then exchange its
  gradient; in a step the busiest replica runs ceil(M / r) micro-batches, and the exchange comes after its last one.
- *path* (iteration time): one micro-batch runs forward along the longest path of the graph and back.
- *cuts* (steady state): the ops of the heaviest path fall into runs with the same devices. A run of r replicas puts
  its time over r and its gradient exchange on each, which must stay below the bound; between two runs the activations
  have to be moved for a part of the micro-batches that follows from the numbers of replicas. The cheapest way to do
  that (a dynamic program over the path), with all other ops added, must fit all devices together. Where few cuts are
  cheap enough to matter, `run_bound` looks closer.
- *memory*: parameters, gradients and optimizer state that do not fit all devices together, or one op that fits none:
  no plan exists, and the bound is infinite.

Left out, all of it on the safe side: bubbles, latencies, shared ports, optimizer time, recomputation, activation
memory, and how loads of whole runs pack on devices.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from drlpp.planners.base import Budget
from drlpp.planners.op_arrays import OpArrays, op_arrays
from drlpp.planners.set_rows import MAX_DEVICES, MAX_PATH, SetRows, exchange_s_per_byte
from drlpp.problem import PlanningProblem

SAFETY = 1.0 - 1e-9
"""Factor on every bound against the rounding of sums."""
SEARCHES = ((128, 0.015), (1024, 0.015), (1024, 0.002))
"""States per layer, and what is small (`SetRows.row`), of the searches for the bound by sets, one after another."""
STEP, PRECISION = 1.1, 1e-3
"""Of that search: factor until a plan may exist, and relative distance at which it ends."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound on the objective in seconds (inf: no plan fits), and which of the bounds it is."""

    value_s: float
    kind: str


def gap(value_s: float, bound: Bound) -> float:
    """(value - bound) / bound; inf for a bound of 0."""
    return (value_s - bound.value_s) / bound.value_s if bound.value_s > 0 else math.inf


def lower_bound(problem: PlanningProblem, budget: Budget | None = None) -> Bound:
    """The best bound on the problem's objective.

    Args:
        budget: the bound by sets is searched while it lasts.
    """
    budget = Budget(math.inf) if budget is None else budget
    arrays = op_arrays(problem)
    if not _may_fit(problem, arrays):
        return Bound(math.inf, "memory")
    rows = SetRows(problem, arrays)
    work = rows.work_s
    if problem.objective == "steady-state":
        bounds = [Bound(work, "work"), Bound(_largest_op_steady(problem, arrays), "op")]
        if not budget.spent:
            bounds.append(Bound(_sets_bound(rows, problem.cluster.num_devices, budget), "sets"))
    else:
        bounds = [
            Bound(work * problem.training.num_microbatches, "work"),
            Bound(_largest_op_step(problem, arrays), "op"),
            Bound(_longest_path_s(problem), "path"),
        ]
    best = max(bounds, key=lambda b: b.value_s)
    return Bound(best.value_s * SAFETY, best.kind)


def _may_fit(problem: PlanningProblem, arrays: OpArrays) -> bool:
    """False if the parameters alone exceed the memory of all devices, or those of one op the largest device."""
    resident = arrays.param_bytes * problem.training.bytes_per_param_byte
    memory = problem.cluster.memory_bytes
    return bool(resident.sum() <= memory.sum() * (1 + 1e-9) and resident.max() <= memory.max() * (1 + 1e-9))


def _replicas(problem: PlanningProblem) -> NDArray[np.int64]:
    return np.arange(1, (problem.cluster.num_devices if problem.may_replicate else 1) + 1)


def _largest_op_steady(problem: PlanningProblem, arrays: OpArrays) -> float:
    """Largest over ops of the smallest over numbers of replicas of time / r + exchange."""
    r = _replicas(problem)
    exchange = exchange_s_per_byte(problem.cluster)[r] / problem.training.num_microbatches
    fastest = _fastest(problem, arrays)
    worst = 0.0
    for seconds, params in zip(fastest, arrays.param_bytes, strict=True):
        if seconds > worst:  # one replica is an upper limit of this op's bound
            worst = max(worst, float((seconds / r + params * exchange).min()))
    return worst


def _largest_op_step(problem: PlanningProblem, arrays: OpArrays) -> float:
    """The same for a step: the busiest replica's micro-batches, then the exchange."""
    r = _replicas(problem)
    number = problem.training.num_microbatches
    exchange = exchange_s_per_byte(problem.cluster)[r]
    rounds = -(-number // r)
    worst = 0.0
    for seconds, params in zip(_fastest(problem, arrays), arrays.param_bytes, strict=True):
        if seconds * number > worst:
            worst = max(worst, float((seconds * rounds + params * exchange).min()))
    return worst


def _fastest(problem: PlanningProblem, arrays: OpArrays) -> NDArray[np.float64]:
    """``[N]`` seconds of each op on its best device."""
    fastest: NDArray[np.float64] = arrays.total_s[np.unique(problem.cluster.type_index)].min(axis=0)
    return fastest


def _longest_path_s(problem: PlanningProblem) -> float:
    """Forward along the longest path and, over edges that carry a gradient, back; each op on its best device."""
    types = np.unique(problem.cluster.type_index)
    times = problem.times
    forward = times.forward_s[types].min(axis=0)
    # a stage's backward pass may be split in two: then only the input gradient is on the path
    back = times.input_grad_s[types].min(axis=0)
    graph = problem.graph
    gradient: dict[tuple[int, int], bool] = {}
    ahead: dict[tuple[int, int], bool] = {}
    for e in graph.edges:
        key = (graph.index[e.before], graph.index[e.after])
        is_forward = e.phase == "forward"
        ahead[key] = ahead.get(key, False) or is_forward
        gradient[key] = gradient.get(key, False) or (e.requires_grad and is_forward)
    both = np.zeros(graph.num_ops)  # longest path to the op, forward and back, without the turn
    only = np.zeros(graph.num_ops)
    best = 0.0
    for i in range(graph.num_ops):
        for p in graph.predecessors[i]:
            if ahead[p, i]:
                only[i] = max(only[i], only[p])
                both[i] = max(both[i], both[p] if gradient[p, i] else only[p])
        both[i] = max(both[i], only[i])
        both[i] += forward[i] + back[i]
        only[i] += forward[i]
        best = max(best, float(both[i]))
    return best


def _sets_bound(rows: SetRows, num_devices: int, budget: Budget) -> float:
    """The bound by sets of devices; 0 where the problem is too large for it."""
    if num_devices > MAX_DEVICES or rows.path_length > MAX_PATH:
        return 0.0
    low = rows.work_s  # what does not exist at one value exists at none below it, so every "no" is a bound
    for width, small in SEARCHES:
        high = low
        while not rows.find(high, width, small):
            low, high = high, high * STEP
            if budget.spent:
                return low
        while high - low > PRECISION * high and not budget.spent:
            middle = (low + high) / 2
            if rows.find(middle, width, small):
                high = middle
            else:
                low = middle
    return low
