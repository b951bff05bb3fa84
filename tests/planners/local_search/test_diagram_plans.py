import numpy as np
import pytest

from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Assignment
from drlpp.planners.base import Budget
from drlpp.planners.baselines.uniform import uniform_assignment
from drlpp.planners.bounds.lower_bound import lower_bound
from drlpp.planners.local_search.diagram_plans import offer_set_plans, reordered, sets_to_assignment
from drlpp.planners.local_search.load_annealing import anneal_exactly
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from planner_cases import levels_cluster, profile, small_problem


def test_any_sets_make_a_legal_plan():
    problem = small_problem(0, [["mid"] * 4], num_ops=30)
    rng = np.random.default_rng(0)
    evaluator = Evaluator(problem)
    for _ in range(30):
        choices = [tuple(rng.permutation(4)[: int(rng.integers(1, 5))].tolist()) for _ in range(3)]
        sets = [choices[int(rng.integers(3))] for _ in range(30)]
        plan = sets_to_assignment(problem.graph, sets)
        assert [plan.devices[s] for s in plan.stage_of_op] == sets
        assert evaluator.bottleneck_s(plan) > 0


def test_replicas_are_ordered_so_that_values_stay_where_they_are():
    problem = small_problem(0, [["mid"] * 3], num_ops=12, chain=True)
    evaluator = Evaluator(problem)
    stages = np.repeat([0, 1, 2], 4)
    kept = Assignment(stages, ((0, 1, 2), (0, 1, 2), (0, 1, 2)))
    mixed = Assignment(stages, ((0, 1, 2), (2, 0, 1), (1, 0, 2)))
    assert evaluator.bottleneck_s(mixed) > evaluator.bottleneck_s(kept)
    assert evaluator.bottleneck_s(reordered(problem, mixed, 100)) == pytest.approx(evaluator.bottleneck_s(kept))
    assert reordered(problem, mixed, 0) is mixed


def test_a_plan_of_one_stage_stays():
    problem = small_problem(0, [["mid"] * 2], num_ops=5)
    start = uniform_assignment(problem, 1)
    assert anneal_exactly(problem, start, moves=10, hot=0.01, cold=1e-4, seed=0) is start


def test_plans_keep_above_the_bound_and_steps_are_left_alone():
    problem = small_problem(2, [["mid"] * 3], num_ops=12)
    search = Search("test", problem, Budget(60), 0)
    offer_set_plans(search, np.random.default_rng(0))
    assert search.best is not None
    assert search.best_value >= lower_bound(problem).value_s
    step = small_problem(2, [["mid"] * 3], num_ops=12, objective="iteration-time")
    search = Search("test", step, Budget(20), 0)
    offer_set_plans(search, np.random.default_rng(0))
    assert search.best is None


def test_a_device_may_take_part_in_several_stages():
    """VGG-16: the convolutions everywhere, and the layers with many parameters on one of these devices as well."""
    problem = PlanningProblem.build(profile("vgg16"), levels_cluster(4, 1e9), objective="steady-state")
    search = Search("test", problem, Budget(60), 0)
    offer_set_plans(search, np.random.default_rng(0))
    assert search.best_value == pytest.approx(0.20605, rel=1e-3)


def test_a_graph_without_work_stays():
    graph = chain_graph(4, forward_s=0.0)
    problem = PlanningProblem.build(graph, levels_cluster(2, 1e9), objective="steady-state")
    start = Assignment(np.array([0, 0, 1, 1]), ((0,), (1,)))
    assert anneal_exactly(problem, start, moves=10, hot=0.1, cold=1e-4, seed=0).stage_of_op.tolist() == [0, 0, 1, 1]
    offer_set_plans(Search("test", problem, Budget(10.0), 0), np.random.default_rng(0))
    assert lower_bound(problem).value_s == 0.0


def test_all_on_one_device_is_best_without_work():
    graph = chain_graph(4, forward_s=0.0, tensor_bytes=1e6)
    problem = PlanningProblem.build(graph, levels_cluster(2, 1e9), objective="steady-state")
    start = Assignment(np.array([0, 0, 1, 1]), ((0,), (1,)))
    assert anneal_exactly(problem, start, moves=200, hot=0.1, cold=1e-4, seed=0).num_stages == 1
