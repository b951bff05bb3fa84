"""The small model on a mixed cluster: its problem, plans, simulation and results."""

from __future__ import annotations

import pytest

from drlpp.cluster import load_cluster
from drlpp.plan import Plan
from drlpp.planners.base import PlanResult
from drlpp.problem import PlanningProblem
from drlpp.sim import Simulation, simulate
from hand_plans import make_plan, two_branches


@pytest.fixture(scope="session")
def problem() -> PlanningProblem:
    return PlanningProblem.build(two_branches(), load_cluster("mixed-a100-v100-t4"), num_microbatches=8)


@pytest.fixture(scope="session")
def plan(problem: PlanningProblem) -> Plan:
    """Stem; the two branches side by side; the head on two replicas."""
    return make_plan(problem, [0, 1, 1, 2, 2, 3, 3, 3], [(0,), (1,), (2,), (3, 4)], "drl")


@pytest.fixture(scope="session")
def simulation(plan: Plan) -> Simulation:
    return simulate(plan)


@pytest.fixture(scope="session")
def results(problem: PlanningProblem, plan: Plan) -> list[PlanResult]:
    """`drl`, data parallelism, and a planner that failed."""
    parallel = make_plan(problem, [0] * 8, [tuple(range(8))], "data-parallel")
    assert plan.prediction is not None
    assert parallel.prediction is not None
    best = plan.prediction.iteration_time_s
    return [
        PlanResult(
            planner="drl",
            status="ok",
            plan=plan,
            planning_time_s=29.5,
            history=((0.1, 2 * best), (3.0, best)),
            breakdown={"policy_s": 1.5 * best, "samples": 1234.0},
        ),
        PlanResult(
            planner="data-parallel",
            status="ok",
            plan=parallel,
            planning_time_s=0.01,
            history=((0.01, parallel.prediction.iteration_time_s),),
        ),
        PlanResult(planner="milp", status="failed", plan=None, planning_time_s=30.0, reason="no solution <in> time"),
    ]
