"""Random plans until the budget is spent: the floor that every search has to beat.

Each sample draws a topological order (random priorities), a number of stages (small ones more often), the cuts, an
order of the hosts' devices and how many replicas each stage has. `max_samples` bounds the run, so that the result of
a small problem does not depend on the clock.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.problem_times import problem_times
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.search import Search
from drlpp.planners.space.device_orders import device_orders
from drlpp.planners.space.op_orders import priority_order
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RandomParams:
    """Settings of the planner.

    Attributes:
        max_samples: bounds the run, so that the result of a small problem does not depend on the speed of the machine.
        device_orders: orders of the devices that plans are drawn from.
    """

    max_samples: int = 2000
    device_orders: int = 8


def random_assignment(
    problem: PlanningProblem, rng: np.random.Generator, devices: tuple[int, ...] | None = None
) -> Assignment:
    """A random legal assignment. Args: `devices` in the order that stages take them; drawn if None."""
    graph, total = problem.graph, problem.cluster.num_devices
    order = priority_order(graph, rng.random(graph.num_ops))
    num_stages = int(min(total, graph.num_ops) ** rng.random() + 0.5)  # hundreds of stages are rarely worth a sample
    cuts = _cuts(rng, graph.num_ops, num_stages)
    labels = np.zeros(graph.num_ops, dtype=np.int64)
    labels[order] = np.searchsorted(cuts, np.arange(graph.num_ops), side="right")
    chosen = devices if devices is not None else tuple(int(d) for d in rng.permutation(total))
    used = int(rng.integers(num_stages, total + 1)) if problem.may_replicate else num_stages
    ends = _cuts(rng, used, num_stages)
    parts = np.split(np.array(chosen[:used]), ends)
    return Assignment(labels, tuple(tuple(int(d) for d in p) for p in parts))


def _cuts(rng: np.random.Generator, length: int, parts: int) -> NDArray[np.int64]:
    """Where to cut ``0..length-1`` in that many parts that are not empty."""
    return (
        np.sort(rng.choice(length - 1, parts - 1, replace=False)).astype(np.int64) + 1
        if parts > 1
        else np.zeros(0, np.int64)
    )


class RandomPlans:
    """Draws plans until the budget is spent."""

    name = "random"
    summary = "random plans until the budget is spent, best kept"

    def __init__(self, params: RandomParams | None = None) -> None:
        self.params = params or RandomParams()

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        rng = np.random.default_rng(seed)
        slowness = problem_times(problem).total_s.sum(axis=1)
        for _ in range(self.params.max_samples):
            devices = device_orders(problem.cluster, slowness, self.params.device_orders, rng)
            search.offer(random_assignment(problem, rng, devices[int(rng.integers(len(devices)))]), hasty=True)
            if budget.spent:
                break
        return search.result({"samples": float(search.num_offers)})
