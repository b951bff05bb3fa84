"""The compiled way from an assignment to placed stages against the readable one: equal to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.cost import place_stages
from drlpp.cost.placement import place_assignment
from drlpp.cost.problem_arrays import problem_arrays
from drlpp.cost.stage_costs import stage_costs
from drlpp.errors import PlanError, ScheduleError
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem
from random_problems import random_cluster, random_problem, with_special_edges


def assert_equal(problem: PlanningProblem, assignment: Assignment) -> None:
    costs = stage_costs(problem, assignment.stage_of_op, assignment.num_stages, assignment.recompute)
    number = problem.training.num_microbatches
    slow = place_stages(costs, problem.cluster, assignment.devices, number)
    fast = place_assignment(problem, problem_arrays(problem), assignment)
    for name in slow._fields:
        a, b = np.asarray(getattr(slow, name)), np.asarray(getattr(fast, name))
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_equals_place_stages(seed):
    assert_equal(*random_problem(seed))


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
