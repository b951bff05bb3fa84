"""The partitioner's walk as an environment."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_problems import small_problem, unequal_cluster
from drlpp.agent.decisions.op_order_env import WIDTH, WalkState
from drlpp.agent.view.features import problem_view
from drlpp.graph import Edge, Op, OpGraph
from drlpp.problem import PlanningProblem


def play(view, batch, rng):
    t = view.tables
    walk = WalkState(t, view.profile.work, np.tile([0.5, 1.0], (batch, 1)), np.full(batch, 2))
    orders = np.empty((batch, t.num_ops), dtype=np.int64)
    for step in range(t.num_ops):
        candidates, features, mask, state = walk.observe()
        assert mask[:, 0].all()
        assert np.isfinite(features[mask]).all()
        assert np.isfinite(state).all()
        orders[:, step] = candidates[np.arange(batch), [rng.choice(np.flatnonzero(m)) for m in mask]]
        walk.step(orders[:, step])
    return orders, walk


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_walk_is_a_topological_order(seed):
    view = problem_view(small_problem(seed, num_ops=20))
    orders, _ = play(view, 4, np.random.default_rng(seed))
    for order in orders:
        assert sorted(order) == list(range(20))
        position = np.argsort(order)
        assert all(position[a] < position[b] for a, b in view.problem.graph.arcs)


def test_all_topological_orders_are_reached():
    ops = tuple(Op(name=c, kind="x", output_bytes=1.0) for c in "abcde")
    arcs = ["ab", "ac", "be", "ce", "de"]
    edges = tuple(Edge(src=a, dst=b, tensor=a) for a, b in arcs)
    graph = OpGraph(name="g", ops=ops, edges=edges, tensor_bytes=dict.fromkeys("abcd", 1.0))
    view = problem_view(PlanningProblem.build(graph, unequal_cluster()))
    orders, _ = play(view, 500, np.random.default_rng(0))
    legal = {
        p
        for p in itertools.permutations(range(5))
        if all(p.index("abcde".index(a)) < p.index("abcde".index(b)) for a, b in arcs)
    }
    assert {tuple(o) for o in orders.tolist()} == legal


def test_the_state_carries_the_bytes_that_are_live(view):
    t = view.tables
    walk = WalkState(t, view.profile.work, np.array([[1.0]]), np.array([1]))
    live = t.live_bytes(np.arange(t.num_ops))
    for i in range(t.num_ops):
        assert walk.live_bytes[0] == pytest.approx(live[i])
        walk.step(np.array([i]))


def test_many_ready_ops_offer_the_latest():
    ops = tuple(Op(name=f"o{i}", kind="x") for i in range(WIDTH + 5))
    graph = OpGraph(name="loose", ops=ops, edges=(), tensor_bytes={})
    view = problem_view(PlanningProblem.build(graph, unequal_cluster()))
    orders, _ = play(view, 3, np.random.default_rng(0))
    assert all(sorted(o) == list(range(WIDTH + 5)) for o in orders)
