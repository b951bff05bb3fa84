"""Annealing on exact loads."""

import pytest

from drlpp.planners.baselines.uniform import uniform_assignment
from drlpp.planners.local_search.load_annealing import anneal_exactly
from drlpp.sim import Evaluator
from planner_cases import small_problem


@pytest.mark.parametrize("seed", range(4))
def test_annealing_never_ends_worse_than_it_began(seed):
    problem = small_problem(seed, [["mid"] * 3], num_ops=25)
    start = uniform_assignment(problem, 3)
    end = anneal_exactly(problem, start, moves=3000, hot=0.01, cold=1e-4, seed=seed)
    evaluator = Evaluator(problem)
    power = 3 ** (1 / 16)  # the energy is a p-norm
    assert evaluator.bottleneck_s(end) <= evaluator.bottleneck_s(start) * power * (1 + 1e-9)
