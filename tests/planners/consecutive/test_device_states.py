"""States of devices, their steps, and what these cost."""

import dataclasses

import pytest

from drlpp.cost import all_reduce_s
from drlpp.cost.problem_arrays import problem_arrays
from drlpp.planners.consecutive.device_states import (
    AllReduceTable,
    by_class,
    in_order,
    relative_speeds,
    replica_counts,
)
from drlpp.planners.space.device_orders import folded
from drlpp.planners.space.shares import busiest_replica
from drlpp.problem import SearchSpace
from planner_cases import small_cluster, small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


def test_replica_counts():
    assert replica_counts(5) == (1, 2, 3, 4, 5)
    assert replica_counts(96) == (1, 2, 4, 8, 16, 32, 64, 96)


def test_share_of_micro_batches_is_whole_in_a_step():
    steady = small_problem(0, UNEQUAL, num_microbatches=4)
    step = small_problem(0, UNEQUAL, num_microbatches=4, objective="iteration-time")
    equal = [dataclasses.replace(p, space=SearchSpace(shares=False)) for p in (steady, step)]
    assert [busiest_replica(p, (0, 1, 2), by_speed=True).share for p in equal] == [
        pytest.approx(1 / 3),
        pytest.approx(2 / 4),
    ]


def test_relative_speeds():
    assert relative_speeds(problem_arrays(small_problem(0, UNEQUAL))) == pytest.approx([1.0, 0.5, 0.25])


def test_all_reduce_table_equals_the_cost_model():
    cluster = small_cluster(UNEQUAL, latency="10us")
    table = AllReduceTable(cluster)
    for devices in ((0, 1), (2, 3), (0, 2), (0, 1, 2, 3), (1, 2, 3)):
        constant, per_byte = table(devices)
        assert constant + per_byte * 1e8 == pytest.approx(all_reduce_s(cluster, devices, 1e8), rel=1e-6)
    assert table((1,)) == (0.0, 0.0)


def test_steps_lead_from_fewer_to_more_devices():
    problem = small_problem(0, UNEQUAL)
    arrays = problem_arrays(problem)
    states = in_order(problem, arrays, folded((0, 1, 2, 3), 1), (1, 2))
    for q in range(states.num_states):
        for e in range(states.step_ptr[q], states.step_ptr[q + 1]):
            assert states.rest[e] < q
    assert states.devices[states.step_ptr[4]] == (0,)
    assert by_class(problem, arrays, (1,), 5) is None
    assert by_class(problem, arrays, (1,), 100).num_states == 2 * 3 * 2
