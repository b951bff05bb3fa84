"""Data parallelism: every device runs the whole model on its share of the micro-batches.

The plan with one stage on all devices. Nothing is searched; where the model does not fit a device it is infeasible.
"""

from __future__ import annotations

import numpy as np

from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem


def data_parallel_assignment(problem: PlanningProblem) -> Assignment:
    """One stage on all devices."""
    return Assignment(np.zeros(problem.graph.num_ops, dtype=np.int64), (tuple(range(problem.cluster.num_devices)),))


class DataParallel:
    """The whole model on every device."""

    name = "data-parallel"
    summary = "one stage, replicated on all devices"

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        if not problem.may_replicate and problem.cluster.num_devices > 1:
            return PlanResult(
                planner=self.name,
                status="failed",
                plan=None,
                planning_time_s=budget.elapsed_s,
                reason="stages may not be replicated (the engine has no replicas, the graph carries transfer times and "
                "no parameter sizes, or forward changes state that needs all micro-batches in order): use a planner "
                "that does not replicate",
            )
        search = Search(self.name, problem, budget, seed, progress)
        search.offer(data_parallel_assignment(problem))
        return search.result()
