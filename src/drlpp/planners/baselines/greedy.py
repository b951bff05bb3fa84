"""Greedy list placement in the manner of HEFT (Topcuoglu, Hariri and Wu, TPDS 2002).

Like HEFT, ops are taken by upward rank: the time of the longest path from the op to the end, transfers included. What
differs: an op may not go before the stage of a predecessor, so that the result is a legal pipeline; and the earliest
finish of one micro-batch, which would put a chain on one device, is replaced by the load per micro-batch: an op goes
to the first allowed place, in a fixed order of the places, whose load stays below a cap that is found by bisection. A
place is one device or, where stages may be replicated, a group of neighbours; groups of equal size are tried, and the
fastest devices alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.problem_arrays import ProblemArrays, problem_arrays
from drlpp.cost.problem_times import problem_times
from drlpp.native import library
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.baselines.uniform import USUAL_STAGES
from drlpp.planners.consecutive.device_states import replica_choices
from drlpp.planners.search import Search
from drlpp.planners.space.device_orders import device_orders
from drlpp.planners.space.op_orders import priority_order
from drlpp.planners.space.shares import busiest_replica, ways_to_count
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GreedyParams:
    """Settings of the planner.

    Attributes:
        bisections: of the cap on the load.
        device_orders: orders of the devices that are tried.
        precision: the bisection ends at this ratio of its ends.
    """

    bisections: int = 12
    device_orders: int = 6
    precision: float = 1.002


Places = tuple[tuple[int, ...], ...]
"""Groups of devices, in the order in which stages take them."""


def upward_rank(problem: PlanningProblem, arrays: ProblemArrays) -> NDArray[np.float64]:
    """``[num_ops]`` seconds of the longest path from each op to the end, on a mean device over a mean path."""
    mean_s = problem_times(problem).total_s[problem.cluster.type_index].mean(axis=0)
    n = problem.cluster.num_devices
    bandwidth = problem.cluster.bandwidth
    per_byte = float((1.0 / bandwidth).sum() - np.trace(1.0 / bandwidth)) / (n * (n - 1)) if n > 1 else 0.0
    leave = np.zeros(arrays.ops.num_ops)
    np.maximum.at(leave, arrays.ops.value_src, arrays.ops.value_amount * (1.0 if arrays.ops.timed else per_byte))
    rank = np.zeros(arrays.ops.num_ops)
    for i in range(arrays.ops.num_ops - 1, -1, -1):
        after = problem.graph.successors[i]
        rank[i] = mean_s[i] + max((leave[i] + rank[j] for j in after), default=0.0)
    return rank


def greedy_assignment(
    problem: PlanningProblem, order: NDArray[np.int64], places: Places, cap_s: float, *, by_speed: bool = False
) -> Assignment | None:
    """Puts ops in `order` on the first of `places` that is allowed and stays below `cap_s`; None if one cannot.

    Args:
        by_speed: unequal devices of a place have shares by speed.
    """
    busiest = [busiest_replica(problem, place, by_speed=by_speed) for place in places]
    times = np.stack([problem_times(problem).total_s[b.type_index] * b.share for b in busiest])
    labels = library.first_fit(times, order, problem_arrays(problem).ops, cap_s)
    return Assignment.compact(labels, places) if len(labels) else None


def group_places(problem: PlanningProblem, rng: np.random.Generator, num_orders: int) -> Iterator[Places]:
    """Orders of places: groups of neighbours, about `USUAL_STAGES` first; single devices; the fastest devices alone."""
    cluster, slowness = problem.cluster, problem_times(problem).total_s.sum(axis=1)
    orders = device_orders(cluster, slowness, num_orders, rng)
    sizes = sorted(
        replica_choices(problem, cluster.num_devices),
        key=lambda size: abs(math.log2(cluster.num_devices // size / USUAL_STAGES)),
    )
    for size in sizes:
        for order in orders:
            yield tuple(order[i : i + size] for i in range(0, len(order) - size + 1, size))
    by_speed = sorted(orders[0], key=lambda d: (slowness[cluster.type_index[d]], d))
    for number in (1 << i for i in range((len(by_speed) - 1).bit_length())):
        yield tuple((d,) for d in by_speed[:number])


class Greedy:
    """List placement by upward rank under a cap on the load."""

    name = "greedy"
    summary = "list placement by upward rank (HEFT), made a legal pipeline"

    def __init__(self, params: GreedyParams | None = None) -> None:
        self.params = params or GreedyParams()

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        rng = np.random.default_rng(seed)
        rank = upward_rank(problem, problem_arrays(problem))
        orders = [priority_order(problem.graph, -rank), np.arange(problem.graph.num_ops, dtype=np.int64)]
        every = list(group_places(problem, rng, self.params.device_orders))
        for by_speed, places, order in itertools.product(ways_to_count(problem), every, orders):
            self._bisect(search, order, places, by_speed)
            if budget.spent:
                break
        return search.result()

    def _bisect(self, search: Search, order: NDArray[np.int64], places: Places, by_speed: bool) -> None:
        problem = search.problem
        worst = float(problem_times(problem).total_s.max(axis=0).sum())
        low, high = worst / (4 * sum(len(p) for p in places)), worst
        for _ in range(self.params.bisections):
            cap = (low * high) ** 0.5 if low > 0 else high
            assignment = greedy_assignment(problem, order, places, cap, by_speed=by_speed)
            if assignment is None:
                low = cap
            else:
                high = cap
                search.offer(assignment)
            if search.budget.spent or high <= low * self.params.precision:
                break
