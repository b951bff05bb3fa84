"""Running planners for the command line: the registry with `drl` in it, the bound, progress and interrupts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drlpp.cli.terminal import interrupt_ends, planner_progress
from drlpp.planners.base import Budget

if TYPE_CHECKING:
    from pathlib import Path

    from drlpp.planners.base import Planner, PlanResult
    from drlpp.problem import PlanningProblem

DRL = "drl"
DRL_SUMMARY = "learned policy, fine-tuned on the problem, then refined"


def planner_names() -> list[str]:
    """Names of all planners, `drl` first."""
    from drlpp.planners.registry import PLANNERS

    return [DRL, *PLANNERS]


def make_planner(name: str, log_dir: Path | None = None, policy_only: bool = False) -> Planner:
    """A planner by name. Raises InputError for an unknown one."""
    if name == DRL:
        from drlpp.agent.planner import DrlPlanner

        return DrlPlanner(log_dir=log_dir, policy_only=policy_only)
    from drlpp.planners.registry import get_planner

    return get_planner(name)


def solve(planner: Planner, problem: PlanningProblem, seconds: float, seed: int) -> PlanResult:
    """Runs a planner with a progress bar; Ctrl-C keeps its best plan so far."""
    budget = Budget(seconds)
    with interrupt_ends(budget), planner_progress(planner.name) as progress:
        return planner.solve(problem, budget, seed, progress)
