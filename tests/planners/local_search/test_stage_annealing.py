"""Annealing of the stages of ops, against the loads of the evaluator."""

import numpy as np
import pytest

from drlpp.cost.problem_arrays import problem_arrays
from drlpp.plan.assignment import Assignment
from drlpp.planners.consecutive.device_states import AllReduceTable
from drlpp.planners.local_search.stage_annealing import Cooling, Rules, anneal_labels, make_slots
from drlpp.sim import Evaluator
from planner_cases import small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


@pytest.mark.parametrize("seed", range(5))
def test_the_searched_load_is_the_evaluators(seed):
    """Single devices, no latency, and no value with two consuming stages: no approximation is left."""
    problem = small_problem(seed, [["fast", "mid", "slow"]], num_ops=12, chain=True)
    arrays = problem_arrays(problem)
    devices = ((0,), (1,), (2,))
    slots = make_slots(problem, arrays, devices, AllReduceTable(problem.cluster))
    labels, load = anneal_labels(
        arrays.ops,
        slots,
        np.repeat([0, 1, 2], 4),
        Cooling(moves=2000, hot=0.1, cold=1e-3, seed=seed),
        Rules(free=False),
    )
    used = np.unique(labels)
    assignment = Assignment.compact(labels, dict(enumerate(devices)))
    real = Evaluator(problem).bottleneck_s(assignment)
    assert real <= load * (1 + 1e-9) <= real * len(used) ** (1 / 16) * (1 + 1e-6)  # p-norm and maximum
