"""Data parallelism, uniform split, random plans, greedy, and the registry."""

import dataclasses

import numpy as np
import pytest

from drlpp.cost.problem_arrays import problem_arrays
from drlpp.errors import InputError
from drlpp.graph.readers import read_graph
from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.baselines.data_parallel import DataParallel
from drlpp.planners.baselines.greedy import Greedy, greedy_assignment, upward_rank
from drlpp.planners.baselines.random_plans import RandomPlans, random_assignment
from drlpp.planners.baselines.uniform import Uniform, grids, uniform_assignment, uniform_split
from drlpp.planners.registry import PLANNERS, get_planner
from drlpp.problem import PlanningProblem, SearchSpace
from drlpp.sim import Evaluator
from planner_cases import chain_problem, data_file, small_problem, with_split

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


@pytest.mark.parametrize("name", list(PLANNERS))
@pytest.mark.parametrize("objective", ["iteration-time", "steady-state"])
def test_every_planner_returns_a_legal_plan_with_its_prediction(name, objective):
    problem = with_split(small_problem(0, UNEQUAL, num_ops=14, objective=objective))
    planner = get_planner(name)
    assert planner.name == name
    assert planner.summary
    result = planner.solve(problem, Budget(0.5), 0)
    assert result.status == "ok"
    assert result.planner == name
    validate(result.plan)
    assert result.plan.provenance.planner == name
    assert result.plan.prediction.iteration_time_s > 0
    assert result.history


@pytest.mark.parametrize("name", list(PLANNERS))
def test_too_little_memory_is_infeasible_with_a_reason(name):
    problem = with_split(small_problem(0, UNEQUAL, num_ops=14, memory="1KB", objective="iteration-time"))
    result = get_planner(name).solve(problem, Budget(0.3), 0)
    assert result.status == "infeasible"
    assert result.plan is None
    assert "memory" in result.reason or "no plan" in result.reason


@pytest.mark.parametrize("name", list(PLANNERS))
def test_one_device_and_one_op(name):
    problem = with_split(small_problem(1, [["mid"]], num_ops=2), num_stages=1)
    result = get_planner(name).solve(problem, Budget(0.2), 0)
    assert result.status == "ok"
    assert result.plan.num_stages == 1


def test_unknown_planner_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'annealing'"):
        get_planner("anealing")


def test_data_parallel_is_one_stage_on_all_devices():
    result = DataParallel().solve(small_problem(0, UNEQUAL), Budget(1), 0)
    assert [s.devices for s in result.plan.stages] == [(0, 1, 2, 3)]


def test_data_parallel_needs_parameter_sizes():
    graph = read_graph(data_file("dnn-partitioning", "bert24_training.json"))
    problem = PlanningProblem.build(graph, small_problem(0, UNEQUAL).cluster)
    result = DataParallel().solve(problem, Budget(1), 0)
    assert result.status == "failed"
    assert "transfer times" in result.reason


def test_uniform_cuts_equal_ops_evenly_in_host_order():
    problem = dataclasses.replace(
        chain_problem(8, [["mid"] * 2, ["mid"] * 2]), space=SearchSpace(parallelism=frozenset({"pp"}))
    )
    result = Uniform().solve(problem, Budget(1), 0)
    assert [len(s.ops) for s in result.plan.stages] == [2, 2, 2, 2]
    assert [s.devices for s in result.plan.stages] == [(0,), (1,), (2,), (3,)]


def test_uniform_tries_all_products_of_stages_and_replicas():
    problem = dataclasses.replace(chain_problem(8, [["mid"] * 2, ["mid"] * 2]), objective="iteration-time")
    assert set(grids(problem)) == {
        ((0,), (1,), (2,), (3,)),
        ((0, 1), (2, 3)),
        ((0, 2), (1, 3)),
        ((0, 1, 2),),
        ((0, 1, 2, 3),),
    }
    values = [Evaluator(problem).evaluate(uniform_split(problem, places)).iteration_time_s for places in grids(problem)]
    result = Uniform().solve(problem, Budget(1), 0)
    assert result.plan.prediction.iteration_time_s == min(values)


def test_uniform_drops_stages_that_a_large_op_swallows():
    problem = small_problem(3, [["mid"] * 6], num_ops=6)
    assert uniform_assignment(problem, 6).num_stages <= 6


def test_random_plans_depend_on_the_seed_only():
    problem = small_problem(2, UNEQUAL, num_ops=12)
    first, again = (random_assignment(problem, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.stage_of_op, again.stage_of_op)
    assert first.devices == again.devices


def test_random_plans_stop_with_the_budget():
    result = RandomPlans().solve(small_problem(2, UNEQUAL, num_ops=12), Budget(0.2), 0)
    assert result.breakdown["samples"] > 1
    assert result.planning_time_s < 1.0


def test_upward_rank_falls_along_edges():
    problem = small_problem(4, UNEQUAL, num_ops=15)
    rank = upward_rank(problem, problem_arrays(problem))
    for a, b in problem.graph.arcs.tolist():
        assert rank[a] >= rank[b]


def test_greedy_respects_its_cap():
    problem = chain_problem(8, [["mid"] * 4])
    order, places = np.arange(8), ((0,), (1,), (2,), (3,))
    assert greedy_assignment(problem, order, places, 3e-3 * 1.9) is None
    assignment = greedy_assignment(problem, order, places, 6.1e-3)
    assert np.bincount(assignment.stage_of_op).tolist() == [2, 2, 2, 2]


def test_greedy_balances_a_chain():
    result = Greedy().solve(chain_problem(8, [["mid"] * 4]), Budget(5), 0)
    assert result.plan.prediction.bottleneck_s == pytest.approx(6e-3)
