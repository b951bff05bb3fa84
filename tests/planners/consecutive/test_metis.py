"""Configurations; and plans that depend on the seed only."""

import numpy as np
import pytest

from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.consecutive.dapple import Dapple
from drlpp.planners.consecutive.metis import Metis
from drlpp.planners.consecutive.piper import Piper
from drlpp.problem import PlanningProblem
from planner_cases import profile, small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


def test_metis_tries_many_configurations_and_beats_uniform_speeds():
    problem = PlanningProblem.build(
        profile("vgg16"), small_problem(0, UNEQUAL).cluster, objective="iteration-time", num_microbatches=16
    )
    result = Metis().solve(problem, Budget(20), 0)
    assert result.breakdown["configurations"] > 5
    validate(result.plan)


@pytest.mark.parametrize("planner", [Dapple, Piper, Metis])
def test_same_seed_same_plan(planner):
    problem = small_problem(5, UNEQUAL, num_ops=15, objective="iteration-time")
    first, again = (planner().solve(problem, Budget(30), 1).plan for _ in range(2))
    assert np.array_equal(first.stage_of_op, again.stage_of_op)
