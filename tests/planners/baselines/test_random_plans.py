"""Random plans depend on their seed and end with their budget."""

import numpy as np

from drlpp.planners.base import Budget
from drlpp.planners.baselines.random_plans import RandomPlans, random_assignment
from planner_cases import small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


def test_random_plans_depend_on_the_seed_only():
    problem = small_problem(2, UNEQUAL, num_ops=12)
    first, again = (random_assignment(problem, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.stage_of_op, again.stage_of_op)
    assert first.devices == again.devices


def test_random_plans_stop_with_the_budget():
    result = RandomPlans().solve(small_problem(2, UNEQUAL, num_ops=12), Budget(0.2), 0)
    assert result.breakdown["samples"] > 1
    assert result.planning_time_s < 1.0
