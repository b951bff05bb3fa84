"""The compiled and the readable way from an assignment to placed stages, side by side."""

from __future__ import annotations

import numpy as np

from drlpp.cost import place_stages
from drlpp.cost.placement import place_assignment
from drlpp.cost.problem_arrays import problem_arrays
from drlpp.cost.stage_costs import stage_costs
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem


def assert_equal(problem: PlanningProblem, assignment: Assignment) -> None:
    costs = stage_costs(problem, assignment.stage_of_op, assignment.num_stages, assignment.settings)
    number, shares = problem.training.num_microbatches, [s.shares for s in assignment.settings]
    slow = place_stages(costs, problem.cluster, assignment.devices, number, shares)
    fast = place_assignment(problem, problem_arrays(problem), assignment)
    for name in slow._fields:
        a, b = np.asarray(getattr(slow, name)), np.asarray(getattr(fast, name))
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
