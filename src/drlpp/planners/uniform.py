"""Uniform split: as many stages as devices, cut along the order of the ops so that all have about equal op time.

What a user does by hand. Stage i runs on the i-th device in the order of the hosts; speeds and links are not looked
at.
"""

from __future__ import annotations

import numpy as np

from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem


def uniform_assignment(problem: PlanningProblem, num_stages: int) -> Assignment:
    """Cuts the order of the ops in `num_stages` parts of about equal time; stage i is on device i.

    Fewer stages come out where one op is larger than a part.
    """
    seconds = problem.times.total_s.mean(axis=0)
    total = float(seconds.sum())
    if total == 0:
        seconds, total = np.ones_like(seconds), float(len(seconds))
    middle = np.cumsum(seconds) - seconds / 2
    labels = np.minimum((middle / total * num_stages).astype(np.int64), num_stages - 1)
    return Assignment.compact(np.maximum.accumulate(labels), {s: (s,) for s in range(num_stages)})


class Uniform:
    """Equal op time per stage, one device per stage."""

    name = "uniform"
    summary = "consecutive stages of equal op time, one per device"

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress)
        search.offer(uniform_assignment(problem, min(problem.cluster.num_devices, problem.graph.num_ops)))
        return search.result()
