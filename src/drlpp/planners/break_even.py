"""What planning costs the user's job: the training steps after which a plan has repaid the seconds of its search."""

from __future__ import annotations

import math
from collections.abc import Mapping

from drlpp.planners.baselines.data_parallel import data_parallel_assignment
from drlpp.planners.space.shares import ways_to_share
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator

DATA_PARALLEL, BEST_BASELINE = "data-parallel", "best-baseline"
"""What a plan is compared with: data parallelism, and the best plan of the other planners that `drl` asked."""


def steps_to_repay(planning_s: float, step_s: float, other_step_s: float) -> float | None:
    """Training steps after which a plan has saved the time that its search took longer.

    Args:
        planning_s: by how much the search took longer than that of the other plan.
        step_s, other_step_s: seconds of a step of the plan, and of the other one.

    Returns:
        Whole steps; 0 if the other plan does not run (it takes forever); None if the plan saves nothing.
    """
    if math.isinf(other_step_s):
        return 0.0
    saved = other_step_s - step_s
    return float(math.ceil(max(0.0, planning_s) / saved)) if saved > 0 else None


def data_parallel_value_s(problem: PlanningProblem, evaluator: Evaluator | None = None) -> float:
    """Objective value of data parallelism; infinite where it may not replicate or does not fit."""
    if not problem.may_replicate:
        return math.inf
    ways = ways_to_share(problem, data_parallel_assignment(problem))
    evaluations = [(evaluator or Evaluator(problem)).evaluate(way) for way in ways]
    return min((e.score(problem.objective) for e in evaluations if e.feasible), default=math.inf)


def break_even(
    problem: PlanningProblem, planning_s: float, value_s: float, others: Mapping[str, float]
) -> dict[str, float | None]:
    """Steps to repay a search by what it is compared with.

    Args:
        value_s: objective value of the plan.
        others: name -> objective value of the other plan, for example of `DATA_PARALLEL`.
    """
    number = problem.training.num_microbatches
    steps = number // problem.objective.microbatches(number)
    return {name: steps_to_repay(planning_s, value_s * steps, other * steps) for name, other in others.items()}


def describe(found: Mapping[str, float | None]) -> str:
    """``1,200 steps (data-parallel), never (best-baseline)``."""
    return ", ".join(f"{'never' if n is None else f'{n:,.0f} steps'} ({name})" for name, n in found.items())
