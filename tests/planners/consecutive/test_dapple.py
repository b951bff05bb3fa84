"""The latency of a chain, and how devices are placed."""

import pytest

from drlpp.planners.base import Budget
from drlpp.planners.consecutive.dapple import Dapple, scatter_order
from planner_cases import chain_problem, levels_cluster


def test_dapple_estimates_the_latency_of_a_chain():
    """Four equal stages: M + 3 rounds of forward and backward."""
    problem = chain_problem(8, [["mid"] * 4], objective="iteration-time")
    result = Dapple().solve(problem, Budget(10), 0)
    estimate = result.breakdown["dapple_latency_s"]
    assert estimate <= (8 + 3) * 6e-3 * (1 + 1e-9)
    assert estimate == pytest.approx(result.plan.prediction.iteration_time_s, rel=0.2)


def test_scatter_takes_one_device_of_each_host_in_turn():
    assert scatter_order(levels_cluster([3, 2], [1e10, 1e9])) == (0, 3, 1, 4, 2, 5)
