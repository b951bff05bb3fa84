"""Coarse problems: the same costs on groups of ops."""

import numpy as np
import pytest

from drlpp.agent.view.coarse import coarse_problem
from drlpp.cluster import load_cluster
from drlpp.errors import InputError
from drlpp.graph.generate.families import FAMILIES
from drlpp.plan.assignment import Assignment
from drlpp.plan.settings import AGAIN, PLAIN
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator


@pytest.mark.parametrize("family", ["transformer", "inception", "random"])
def test_a_partition_of_groups_costs_what_it_costs_on_the_ops(family):
    graph = FAMILIES[family](np.random.default_rng(1))
    problem = PlanningProblem.build(graph, load_cluster("mixed-a100-v100-t4"))
    coarse = coarse_problem(problem, 20)
    assert coarse.problem.graph.num_ops <= 20
    cuts = np.sort(np.random.default_rng(2).choice(np.arange(1, coarse.problem.graph.num_ops), 2, replace=False))
    labels = np.searchsorted(cuts, np.arange(coarse.problem.graph.num_ops), side="right")
    groups = Assignment(labels, ((0, 1), (2, 3, 4), (6,)), (PLAIN, AGAIN, PLAIN))
    ours = Evaluator(coarse.problem).evaluate(groups)
    theirs = Evaluator(problem).evaluate(coarse.expand(groups))
    assert ours.iteration_time_s == pytest.approx(theirs.iteration_time_s, rel=1e-9)
    assert ours.bottleneck_s == pytest.approx(theirs.bottleneck_s, rel=1e-9)
    np.testing.assert_allclose(ours.peak_memory_bytes, theirs.peak_memory_bytes, rtol=1e-9)


def test_a_small_graph_keeps_its_ops(problem):
    coarse = coarse_problem(problem, 24)
    assert coarse.problem is problem
    assert coarse.group_of_op.tolist() == list(range(24))


def test_no_groups_is_an_error(problem):
    with pytest.raises(InputError, match="max_groups is 0"):
        coarse_problem(problem, 0)
