"""Ranks of ops, and first fit under a cap."""

import numpy as np
import pytest

from drlpp.cost.problem_arrays import problem_arrays
from drlpp.planners.base import Budget
from drlpp.planners.baselines.greedy import Greedy, greedy_assignment, upward_rank
from planner_cases import chain_problem, small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


def test_upward_rank_falls_along_edges():
    problem = small_problem(4, UNEQUAL, num_ops=15)
    rank = upward_rank(problem, problem_arrays(problem))
    for a, b in problem.graph.arcs.tolist():
        assert rank[a] >= rank[b]


def test_greedy_respects_its_cap():
    problem = chain_problem(8, [["mid"] * 4])
    order, places = np.arange(8), ((0,), (1,), (2,), (3,))
    assert greedy_assignment(problem, order, places, 3e-3 * 1.9) is None
    assignment = greedy_assignment(problem, order, places, 6.1e-3)
    assert np.bincount(assignment.stage_of_op).tolist() == [2, 2, 2, 2]


def test_greedy_balances_a_chain():
    result = Greedy().solve(chain_problem(8, [["mid"] * 4]), Budget(5), 0)
    assert result.plan.prediction.bottleneck_s == pytest.approx(6e-3)
