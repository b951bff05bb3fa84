"""The compiled way from an assignment to placed stages against the readable one: equal to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.cost.placement import place_assignment
from drlpp.cost.problem_arrays import problem_arrays
from drlpp.errors import PlanError, ScheduleError
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem
from placed import assert_equal
from random_problems import random_cluster, random_problem, with_action_times, with_frozen, with_special_edges


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_equals_place_stages(seed):
    assert_equal(*random_problem(seed))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_equals_place_stages_where_passes_take_time_besides_their_ops(seed):
    problem, assignment = random_problem(seed)
    assert_equal(with_action_times(problem), assignment)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_equals_place_stages_with_frozen_parameters_and_buffers(seed):
    problem, assignment = random_problem(seed)
    assert_equal(with_frozen(problem), assignment)


@pytest.mark.parametrize("seed", range(4))
def test_equals_place_stages_with_more_than_64_stages(seed):
    rng = np.random.default_rng(seed)
    graph = with_special_edges(rng, random_graph(rng, 300, branching=0.5, skips=0.5))
    problem = PlanningProblem.build(graph, random_cluster(rng, 5), num_microbatches=3)
    labels = np.sort(rng.integers(0, 150, graph.num_ops))
    used, stage_of_op = np.unique(labels, return_inverse=True)
    devices = tuple((int(rng.integers(5)),) for _ in used)
    assert_equal(problem, Assignment(stage_of_op.astype(np.int64), devices))


def test_bad_assignments():
    problem, _ = random_problem(3)
    arrays, n = problem_arrays(problem), problem.graph.num_ops
    zeros = np.zeros(n, dtype=np.int64)
    with pytest.raises(ScheduleError, match=r"devices 0\.\.99: cluster 'random' has devices 0\.\."):
        place_assignment(problem, arrays, Assignment(zeros, ((0, 99),)))
    with pytest.raises(PlanError, match="stage 1 has no ops"):
        place_assignment(problem, arrays, Assignment(zeros, ((0,), (0,))))
    with pytest.raises(PlanError, match="back to stage 0"):
        place_assignment(problem, arrays, Assignment((np.arange(n) == 0).astype(np.int64), ((0,), (0,))))
    with pytest.raises(PlanError, match="has 1 entries"):
        place_assignment(problem, arrays, Assignment(zeros[:1], ((0,),)))
    with pytest.raises(PlanError, match=r"must be in 0\.\.0"):
        place_assignment(problem, arrays, Assignment(zeros + 5, ((0,),)))
