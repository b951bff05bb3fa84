import dataclasses
import math

import pytest

from drlpp.planners.base import Budget
from drlpp.planners.baselines.data_parallel import DataParallel
from drlpp.planners.break_even import (
    BEST_BASELINE,
    DATA_PARALLEL,
    break_even,
    data_parallel_value_s,
    describe,
    steps_to_repay,
)
from drlpp.problem import SearchSpace
from planner_cases import small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


def step_problem(seed):
    return small_problem(seed, UNEQUAL, num_ops=10, objective="iteration-time")


@pytest.mark.parametrize(
    ("planning_s", "step_s", "other_s", "steps"),
    [(30.0, 1.0, 1.5, 60), (30.0, 1.0, 1.7, 43), (-1.0, 1.0, 2.0, 0), (5.0, 1.0, math.inf, 0)],
)
def test_steps_are_the_time_over_the_saving(planning_s, step_s, other_s, steps):
    assert steps_to_repay(planning_s, step_s, other_s) == steps


@pytest.mark.parametrize("other_s", [1.0, 0.9])
def test_a_plan_that_saves_nothing_repays_nothing(other_s):
    assert steps_to_repay(1.0, 1.0, other_s) is None


def test_the_bottleneck_counts_once_per_micro_batch():
    problem = step_problem(0)
    steady = dataclasses.replace(problem, objective="steady-state")
    number = problem.training.num_microbatches
    assert break_even(problem, 10.0, 1.0, {BEST_BASELINE: 2.0}) == {BEST_BASELINE: 10}
    assert break_even(steady, 10.0, 1.0, {BEST_BASELINE: 2.0}) == {BEST_BASELINE: math.ceil(10 / number)}


def test_data_parallelism_is_what_its_planner_finds():
    problem = step_problem(1)
    plan = DataParallel().solve(problem, Budget(1), 0).plan
    assert data_parallel_value_s(problem) == pytest.approx(plan.prediction.iteration_time_s)
    assert (
        data_parallel_value_s(dataclasses.replace(problem, space=SearchSpace(parallelism=frozenset({"pp"}))))
        == math.inf
    )


def test_words():
    assert describe({DATA_PARALLEL: 1200.0, BEST_BASELINE: None}) == (
        "1,200 steps (data-parallel), never (best-baseline)"
    )
