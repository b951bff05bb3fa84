"""Orders of ops."""

import itertools

import numpy as np
import pytest

from drlpp.planners.space.op_orders import breadth_first, op_orders, priority_order, reversed_depth_first
from planner_cases import small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


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
