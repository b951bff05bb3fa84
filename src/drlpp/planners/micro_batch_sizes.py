"""Planning where the micro-batch size is a choice: the same step in few large micro-batches or in many small ones.

A quick planner ranks the sizes. The best of them share the budget, most for the first; one whose lower bound is not
below the best plan so far is left out.
"""

from __future__ import annotations

import dataclasses
import math

from drlpp.planners.base import Budget, Planner, PlanResult, Progress, no_progress
from drlpp.planners.baselines.uniform import Uniform
from drlpp.planners.bounds.lower_bound import Bound, lower_bound
from drlpp.problem import PlanningProblem

RANKING_SHARE = 0.15
"""Part of the budget for ranking the sizes."""
CANDIDATES = 3
"""Sizes that the planner itself is asked about, if the first has a plan."""
FIRST_SHARE = 0.5
"""Part of what is left for each candidate but the last."""


def solve_over_sizes(
    planner: Planner, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
) -> PlanResult:
    """The best plan over all `SearchSpace.micro_batch_sizes` of a problem; its graph and training tell the size."""
    best: PlanResult | None = None
    misses: list[PlanResult] = []
    ranked = _ranked(problem, budget.part(RANKING_SHARE), seed)
    for k, variant in enumerate(ranked):
        enough = k >= CANDIDATES and best is not None
        if enough or (k and budget.spent) or (best is not None and lower_bound(variant).value_s >= _value_s(best)):
            continue
        last = k == min(CANDIDATES, len(ranked)) - 1
        start_s = budget.elapsed_s
        part = budget.part(1.0 if last else FIRST_SHARE)
        result = planner.solve(variant, part, seed, progress)
        if result.plan is None:
            misses.append(result)
        elif best is None or _value_s(result) < _value_s(best):
            history = tuple((start_s + when, value) for when, value in result.history)
            best = dataclasses.replace(result, history=history)
    return dataclasses.replace(best or misses[0], planning_time_s=budget.elapsed_s)


def lower_bound_over_sizes(problem: PlanningProblem) -> Bound:
    """A bound that holds whatever size is chosen: the least of the bounds of all sizes."""
    return min((lower_bound(variant) for variant in problem.variants), key=lambda bound: bound.value_s)


def _ranked(problem: PlanningProblem, budget: Budget, seed: int) -> list[PlanningProblem]:
    """The problem at every size, the most promising first."""
    variants = problem.variants
    values = []
    for k, variant in enumerate(variants):
        result = Uniform().solve(variant, budget.part(1 / (len(variants) - k)), seed)
        values.append(_value_s(result))
    order = sorted(range(len(variants)), key=lambda k: (values[k], k))
    return [variants[k] for k in order]


def _value_s(result: PlanResult) -> float:
    """The step time of a result, which is for the same samples at every size; inf without a plan."""
    if result.plan is None or result.plan.prediction is None:
        return math.inf
    return result.plan.prediction.iteration_time_s
