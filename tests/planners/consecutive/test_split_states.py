"""Costs of stages between splits, against sums over their definition."""

import itertools

import numpy as np
import pytest

from drlpp.cost.problem_arrays import problem_arrays
from drlpp.planners.consecutive.device_states import (
    in_order,
)
from drlpp.planners.consecutive.downsets import all_downsets
from drlpp.planners.consecutive.split_program import solve_split, to_assignment
from drlpp.planners.consecutive.split_states import along_order, over_downsets
from drlpp.planners.space.device_orders import folded
from drlpp.planners.space.op_orders import op_orders
from planner_cases import small_problem

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
