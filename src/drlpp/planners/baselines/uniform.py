"""Uniform split: stages of about equal op time along the order of the ops, each with the same number of replicas.

What a user does by hand, with the two knobs that a user turns: every product of stages and replicas that uses the
devices is tried (above `MANY_DEVICES` devices, replicas in powers of two), with replicas on neighbouring devices and
as equal pipelines side by side. Stages take the devices in the order of the hosts; speeds and links are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from drlpp.cost.problem_times import problem_times
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.consecutive.device_states import replica_choices
from drlpp.planners.search import Search
from drlpp.planners.space.device_orders import folded, host_order
from drlpp.problem import PlanningProblem, per_problem

USUAL_STAGES = 8
"""Plans with about so many stages are tried first: hundreds of stages are rarely good and slow to simulate."""


def uniform_assignment(problem: PlanningProblem, num_stages: int) -> Assignment:
    """`uniform_split` with stage i on device i alone."""
    return uniform_split(problem, tuple((s,) for s in range(num_stages)))


def uniform_split(problem: PlanningProblem, places: tuple[tuple[int, ...], ...]) -> Assignment:
    """Cuts the order of the ops in parts of about equal time, one for each of `places`: stage i on the i-th.

    Fewer stages come out where one op is larger than a part.
    """
    seconds = problem_times(problem).total_s.mean(axis=0)
    total = float(seconds.sum())
    if total == 0:
        seconds, total = np.ones_like(seconds), float(len(seconds))
    middle = np.cumsum(seconds) - seconds / 2
    labels = np.minimum((middle / total * len(places)).astype(np.int64), len(places) - 1)
    return Assignment.compact(np.maximum.accumulate(labels), places)


def grids(problem: PlanningProblem) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Places for stages: all devices, or nearly all, as so many stages times so many replicas."""
    order = host_order(problem.cluster)
    total = len(order)

    def distance(replicas: int) -> float:
        return abs(math.log2(total // replicas / USUAL_STAGES))

    for replicas in sorted(replica_choices(problem, total), key=distance):
        stages = min(total // replicas, problem.graph.num_ops)
        neighbours = tuple(order[s * replicas : (s + 1) * replicas] for s in range(stages))
        yield neighbours
        if 1 < replicas < total:
            yield folded(order, replicas)[:stages]


def offer_grids(search: Search) -> None:
    """Offers uniform splits on all grids while the budget lasts, one at least. The problem remembers the best."""
    for places in grids(search.problem):
        search.offer(uniform_split(search.problem, places))
        if search.budget.spent:
            break
    if search.best is not None:
        known_splits(search.problem).append(search.best)


@per_problem
def known_splits(problem: PlanningProblem) -> list[Assignment]:
    """The best of each time that `offer_grids` looked at a problem, such as when its variants were ranked."""
    return []


class Uniform:
    """Equal op time and equal replicas per stage."""

    name = "uniform"
    summary = "consecutive stages of equal op time with equal replicas, the best product of the two"

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress)
        offer_grids(search)
        return search.result()
