"""The parts that the dynamic programs are made of: orders, downsets, split models and device states."""

import dataclasses
import itertools

import numpy as np
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
from drlpp.planners.consecutive.downsets import all_downsets
from drlpp.planners.consecutive.split_program import solve_split, to_assignment
from drlpp.planners.consecutive.split_states import along_order, over_downsets
from drlpp.planners.space.device_orders import device_orders, fold_depths, folded, host_order
from drlpp.planners.space.op_orders import breadth_first, op_orders, priority_order, reversed_depth_first
from drlpp.planners.space.shares import busiest_replica
from drlpp.problem import SearchSpace
from planner_cases import levels_cluster, small_cluster, small_problem

DIAMOND = ((), (0,), (0,), (1, 2))
UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


def brute_force_cost(problem, arrays, inside):
    """Received and sent amount of a set of ops, from the definition."""
    received = sent = 0.0
    for v, src in enumerate(arrays.ops.value_src):
        consumers = arrays.ops.consumers(v)
        if src in inside:
            sent += arrays.ops.value_amount[v] * any(c not in inside for c in consumers)
        else:
            received += arrays.ops.value_amount[v] * any(c in inside for c in consumers)
    return received, sent


@pytest.mark.parametrize("seed", range(5))
def test_costs_of_stages_along_an_order(seed):
    problem = small_problem(seed, UNEQUAL, num_ops=12)
    arrays = problem_arrays(problem)
    for order in itertools.islice(op_orders(problem.graph, np.random.default_rng(seed)), 3):
        model = along_order(arrays, order)
        for i, j in itertools.combinations(range(13), 2):
            inside = set(order[i:j].tolist())
            received, sent = brute_force_cost(problem, arrays, inside)
            assert model.received[i, j] == pytest.approx(received)
            assert model.sent[i, j] == pytest.approx(sent)
            assert set(model.stage_ops(i, j).tolist()) == inside


@pytest.mark.parametrize("seed", range(5))
def test_costs_of_stages_between_downsets(seed):
    problem = small_problem(seed, UNEQUAL, num_ops=9)
    arrays = problem_arrays(problem)
    model = over_downsets(arrays, all_downsets(problem.graph.predecessors, 500))
    for i, j in itertools.combinations(range(model.num_states), 2):
        if (model.members[i] & ~model.members[j]).any():
            assert np.isinf(model.received[i, j])
            continue
        received, sent = brute_force_cost(problem, arrays, set(model.stage_ops(i, j).tolist()))
        assert model.received[i, j] == pytest.approx(received)
        assert model.sent[i, j] == pytest.approx(sent)


def test_long_orders_are_cut_in_blocks():
    problem = small_problem(0, UNEQUAL, num_ops=50)
    arrays = problem_arrays(problem)
    model = along_order(arrays, np.arange(50), max_positions=12)
    assert model.num_states <= 12
    assert not model.members[0].any()
    assert model.members[-1].all()
    assert model.total_s[0, -1] == pytest.approx(arrays.times.total_s[0].sum())


@pytest.mark.parametrize("seed", range(5))
def test_orders_of_ops_are_topological_and_differ(seed):
    graph = small_problem(seed, UNEQUAL, num_ops=20).graph
    orders = list(itertools.islice(op_orders(graph, np.random.default_rng(seed)), 6))
    orders += [breadth_first(graph), priority_order(graph, np.zeros(20)), reversed_depth_first(graph, np.zeros(20))]
    for order in orders:
        position = np.argsort(order)
        assert (position[graph.arcs[:, 0]] < position[graph.arcs[:, 1]]).all()
    assert len({o.tobytes() for o in orders[:3]}) == 3


def test_a_chain_has_one_order():
    graph = small_problem(0, UNEQUAL, num_ops=8, chain=True).graph
    assert len(list(op_orders(graph, np.random.default_rng(0)))) == 1


def test_orders_of_devices_keep_hosts_together_and_skip_equal_ones():
    cluster = levels_cluster([2, 3], [1e10, 1e9])
    assert device_orders(cluster, np.ones(3), 10, np.random.default_rng(0)) == [host_order(cluster)]
    mixed = small_cluster([["fast", "fast"], ["slow"], ["mid", "mid"]])
    orders = device_orders(mixed, np.array([1.0, 2.0, 4.0]), 10, np.random.default_rng(0))
    assert len(orders) == 6
    assert orders[0] == (0, 1, 2, 3, 4)
    assert all(abs(o.index(0) - o.index(1)) == 1 for o in orders)


def test_folding_makes_equal_pipelines():
    cluster = levels_cluster([3, 2], [1e10, 1e9])
    assert folded(host_order(cluster), 2) == ((0, 3), (1, 4), (2, 5))
    assert 2 in fold_depths(cluster, host_order(cluster))
    assert fold_depths(small_cluster([["fast", "mid"], ["slow", "slow"]]), (0, 1, 2, 3)) == []


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


def test_fill_under_a_limit_is_the_sum_of_the_loads():
    problem = small_problem(3, [["mid"] * 3], num_ops=9, chain=True)
    arrays = problem_arrays(problem)
    model = along_order(arrays, np.arange(9))
    states = in_order(problem, arrays, folded((0, 1, 2), 1), (1,))
    best = solve_split(model, states)
    fill = solve_split(model, states, value="fill", limit_s=best.value_s * (1 + 1e-9))
    free = solve_split(model, states, value="fill")
    assert fill.value_s >= free.value_s
    assert len(free.stages) == 1  # one micro-batch passes one device fastest
    assert to_assignment(model, states, best).num_stages == len(best.stages)
    assert solve_split(model, states, limit_s=best.value_s * 0.99) is None
    assert solve_split(model, states, memory_share=1e-12) is None
