"""Seconds of ops on the device types of a problem."""

import numpy as np
import pytest

from drlpp.cost.op_times import device_times
from drlpp.cost.problem_times import problem_times
from planner_cases import small_problem


def test_there_is_a_row_for_each_type_and_they_are_remembered():
    problem = small_problem(0, [["fast", "mid"], ["slow"]], num_ops=7)
    times = problem_times(problem)
    assert times is problem_times(problem)
    assert times.forward_s.shape == (3, 7)
    for row, device in enumerate(problem.cluster.device_types):
        found = np.stack([times.forward_s[row], times.input_grad_s[row], times.weight_grad_s[row]], axis=1)
        assert found == pytest.approx(device_times(problem.graph, device))


def test_measured_times_go_with_the_speed():
    problem = small_problem(1, [["fast", "slow"]], num_ops=5)
    by_name = {device.name: row for row, device in enumerate(problem.cluster.device_types)}
    total_s = problem_times(problem).total_s
    assert total_s[by_name["slow"]] == pytest.approx(4 * total_s[by_name["fast"]])
