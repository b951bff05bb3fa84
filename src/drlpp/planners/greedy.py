"""Greedy list placement in the manner of HEFT (Topcuoglu, Hariri and Wu, TPDS 2002).

Like HEFT, ops are taken by upward rank: the time of the longest path from the op to the end, transfers included. What
differs: an op may not go before the stage of a predecessor, so that the result is a legal pipeline; and the earliest
finish of one micro-batch, which would put a chain on one device, is replaced by the load per micro-batch: an op goes
to the first allowed device, in a fixed order of the devices, whose load stays below a cap that is found by bisection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.device_orders import device_orders
from drlpp.planners.op_arrays import OpArrays, op_arrays
from drlpp.planners.op_orders import priority_order
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem

BISECTIONS = 12
DEVICE_ORDERS = 6


def upward_rank(problem: PlanningProblem, arrays: OpArrays) -> NDArray[np.float64]:
    """``[num_ops]`` seconds of the longest path from each op to the end, on a mean device over a mean path."""
    mean_s = problem.times.total_s[problem.cluster.type_index].mean(axis=0)
    n = problem.cluster.num_devices
    bandwidth = problem.cluster.bandwidth
    per_byte = float((1.0 / bandwidth).sum() - np.trace(1.0 / bandwidth)) / (n * (n - 1)) if n > 1 else 0.0
    leave = np.zeros(arrays.num_ops)
    np.maximum.at(leave, arrays.value_src, arrays.value_amount * (1.0 if arrays.timed else per_byte))
    rank = np.zeros(arrays.num_ops)
    for i in range(arrays.num_ops - 1, -1, -1):
        after = problem.graph.successors[i]
        rank[i] = mean_s[i] + max((leave[i] + rank[j] for j in after), default=0.0)
    return rank


def greedy_assignment(
    problem: PlanningProblem, order: NDArray[np.int64], devices: tuple[int, ...], cap_s: float
) -> Assignment | None:
    """Places ops in `order` on the first of `devices` that is allowed and stays below `cap_s`; None if one cannot."""
    times = problem.times.total_s[problem.cluster.type_index[list(devices)]]
    load = np.zeros(len(devices))
    labels = np.zeros(problem.graph.num_ops, dtype=np.int64)
    for i in order.tolist():
        first = max((labels[p] for p in problem.graph.predecessors[i]), default=0)
        done = load[first:] + times[first:, i]
        fits = np.flatnonzero(done <= cap_s)
        if not len(fits):
            return None
        labels[i] = first + fits[0]
        load[labels[i]] += times[labels[i], i]
    return Assignment.compact(labels, {p: (d,) for p, d in enumerate(devices)})


class Greedy:
    """List placement by upward rank under a cap on the load."""

    name = "greedy"
    summary = "list placement by upward rank (HEFT), made a legal pipeline"

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress)
        rng = np.random.default_rng(seed)
        rank = upward_rank(problem, op_arrays(problem))
        orders = [priority_order(problem.graph, -rank), np.arange(problem.graph.num_ops, dtype=np.int64)]
        slowness = problem.times.total_s.sum(axis=1)
        for devices in device_orders(problem.cluster, slowness, DEVICE_ORDERS, rng):
            for order in orders:
                self._bisect(search, order, devices)
                if budget.spent:
                    return search.result()
        return search.result()

    @staticmethod
    def _bisect(search: Search, order: NDArray[np.int64], devices: tuple[int, ...]) -> None:
        problem = search.problem
        worst = float(problem.times.total_s.max(axis=0).sum())
        low, high = worst / (4 * len(devices)), worst
        for _ in range(BISECTIONS):
            cap = (low * high) ** 0.5 if low > 0 else high
            assignment = greedy_assignment(problem, order, devices, cap)
            if assignment is None:
                low = cap
            else:
                high = cap
                search.offer(assignment)
            if search.budget.spent or high <= low * 1.002:
                break
