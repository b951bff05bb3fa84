"""Running planners for the command line, with a progress bar and an interrupt that keeps the best plan so far."""

from __future__ import annotations

from drlpp.cli.terminal import interrupt_ends, planner_progress
from drlpp.planners.base import Budget, Planner, PlanResult
from drlpp.problem import PlanningProblem
from drlpp.solving import load_for, solve


def solve_visibly(planner: Planner, problem: PlanningProblem, seconds: float, seed: int) -> PlanResult:
    """`drlpp.solving.solve` with a progress bar; the first Ctrl-C keeps the best plan so far."""
    load_for(problem)
    budget = Budget(seconds)
    with interrupt_ends(budget), planner_progress(planner.name) as progress:
        return solve(problem, planner, budget=budget, seed=seed, progress=progress)
