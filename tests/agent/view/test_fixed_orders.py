"""The fixed orders of the ops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_problems import small_problem
from drlpp.agent.view.features import problem_view
from drlpp.agent.view.fixed_orders import FIXED_ORDERS
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.problem import PlanningProblem


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_all_are_topological_orders(seed):
    view = problem_view(small_problem(seed, num_ops=20))
    assert view.orders.shape == (len(FIXED_ORDERS), 20)
    for order in view.orders:
        position = np.argsort(order)
        assert sorted(order.tolist()) == list(range(20))
        assert all(position[a] < position[b] for a, b in view.problem.graph.arcs)


def test_narrow_orders_keep_fewer_bytes_alive():
    mean = np.zeros(len(FIXED_ORDERS))
    for seed in range(20):
        view = problem_view(small_problem(seed, num_ops=30))
        mean += [view.tables.live_bytes(order).mean() for order in view.orders]
    graph, _, _, narrow, narrow_back = mean
    assert max(narrow, narrow_back) < graph


def test_a_chain_has_one_order():
    problem = small_problem()
    view = problem_view(PlanningProblem.build(chain_graph(5, tensor_bytes=1.0, param_bytes=1.0), problem.cluster))
    assert not view.has_orders
    assert view.order_is_new.tolist() == [True, False, False, False, False]
    assert problem_view(problem).has_orders
