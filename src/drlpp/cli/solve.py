"""Running planners for the command line, with a progress bar and an interrupt that keeps the best plan so far."""

from __future__ import annotations

import numpy as np

from drlpp.cli.terminal import err, interrupt_ends, planner_progress
from drlpp.plan import Assignment
from drlpp.planners.base import Budget, Planner, PlanResult
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from drlpp.solve import solve


def load_simulator(problem: PlanningProblem) -> None:
    """Loads the compiled simulator before a budget begins; the first time on a machine, this compiles it."""
    with err().status("loading the simulator (compiled on first use: about 20 s)"):
        num_ops = problem.graph.num_ops
        halves = np.minimum(np.arange(num_ops) * 2 // num_ops, 1)
        Evaluator(problem).evaluate(Assignment.compact(halves, {0: (0,), 1: (problem.cluster.num_devices - 1,)}))


def solve_visibly(planner: Planner, problem: PlanningProblem, seconds: float, seed: int) -> PlanResult:
    """`drlpp.solve.solve` with a progress bar; the first Ctrl-C keeps the best plan so far."""
    load_simulator(problem)
    budget = Budget(seconds)
    with interrupt_ends(budget), planner_progress(planner.name) as progress:
        return solve(problem, planner, budget=budget, seed=seed, progress=progress)
