"""Equal splits, and what keeps them from being equal."""

import dataclasses

from drlpp.planners.base import Budget
from drlpp.planners.baselines.uniform import Uniform, grids, uniform_assignment, uniform_split
from drlpp.problem import SearchSpace
from drlpp.sim import Evaluator
from planner_cases import chain_problem, small_problem


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
