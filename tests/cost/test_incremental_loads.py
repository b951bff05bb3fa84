"""The incremental bottleneck against the full one, along random walks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.native import library
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator, IncrementalBottleneck
from random_groups import random_grouped_problem
from random_problems import random_problem, with_action_times, with_frozen


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_walk_equals_the_full_evaluation(seed):
    problem, assignment = random_problem(seed) if seed % 2 else random_grouped_problem(seed)[2:]
    if seed % 3 == 0:
        problem = with_frozen(problem)
    if seed % 5 == 0:
        problem = with_action_times(problem)
    rng = np.random.default_rng(seed)
    evaluator = Evaluator(problem)
    moves = IncrementalBottleneck(problem, assignment)
    assert moves.bottleneck_s == pytest.approx(evaluator.bottleneck_s(assignment), rel=1e-9)
    for _ in range(20):
        op = int(rng.integers(problem.graph.num_ops))
        low, high = moves.legal_range(op)
        stage = int(rng.integers(low, high + 1))
        labels = moves.labels
        labels[op] = stage
        if len(np.unique(labels)) == assignment.num_stages:
            expected = evaluator.bottleneck_s(dataclasses.replace(assignment, stage_of_op=labels))
            before = moves.bottleneck_s
            assert moves.cost_of_move(op, stage) == pytest.approx(expected, rel=1e-9)
            assert moves.bottleneck_s == before
            assert moves.move(op, stage) == pytest.approx(expected, rel=1e-9)
            assert (moves.labels == labels).all()


def test_a_stage_may_become_empty_and_full_again():
    problem, _ = random_problem(3)
    chain = PlanningProblem.build(chain_graph(3, tensor_bytes=1e6, param_bytes=1e6), problem.cluster)
    last = problem.cluster.num_devices - 1
    assignment = Assignment(np.array([0, 1, 2]), ((0,), (0, last), (last,)))
    moves = IncrementalBottleneck(chain, assignment)
    start = moves.bottleneck_s
    moves.move(1, 2)
    merged = Assignment(np.array([0, 1, 1]), ((0,), (last,)))
    assert moves.bottleneck_s == pytest.approx(Evaluator(chain).bottleneck_s(merged))
    assert moves.move(1, 1) == pytest.approx(start)


def test_many_moves_do_not_drift():
    problem, assignment = random_problem(11)
    moves = IncrementalBottleneck(problem, assignment)
    rng = np.random.default_rng(0)
    for _ in range(2 * library.REFRESH_AFTER):
        op = int(rng.integers(problem.graph.num_ops))
        low, high = moves.legal_range(op)
        moves.move(op, int(rng.integers(low, high + 1)))
    used, labels = np.unique(moves.labels, return_inverse=True)
    now = Assignment(
        labels.astype(np.int64),
        tuple(assignment.devices[s] for s in used),
        tuple(assignment.settings[s] for s in used),
    )
    assert moves.bottleneck_s == pytest.approx(Evaluator(problem).bottleneck_s(now), rel=1e-9)


def test_tensors_with_two_producers_are_refused():
    graph = chain_graph(3)
    edges = tuple(dataclasses.replace(e, tensor="t0") for e in graph.edges)
    problem, _ = random_problem(3)
    problem = PlanningProblem.build(dataclasses.replace(graph, edges=edges), problem.cluster)
    with pytest.raises(InputError, match="'t0' of graph 'chain-3' has several producers"):
        IncrementalBottleneck(problem, Assignment(np.zeros(3, dtype=np.int64), ((0,),)))
