"""The parts of a gap: what transfers make goes where they are free, and a bound that counts them has none."""

import dataclasses

import numpy as np
import pytest

from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Objective
from drlpp.plan.assignment import Assignment
from drlpp.planners.bounds.gap import COUNTS, Gap, gap_of
from drlpp.planners.bounds.lower_bound import Bound, lower_bound
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from drlpp.solving import solve
from planner_cases import small_cluster

CLUSTER = small_cluster([["fast", "mid"], ["slow"]])


def plan_of(problem):
    return solve(problem, "uniform", budget=2.0).plan


def test_a_plan_of_one_device_has_no_transfers():
    problem = PlanningProblem.build(chain_graph(6), small_cluster([["mid"]]), num_microbatches=4)
    gap = gap_of(plan_of(problem), lower_bound(problem), Objective.ITERATION_TIME)
    assert gap.transfers == 0.0
    assert gap.whole == pytest.approx(0.0, abs=1e-6)


def test_transfers_are_the_part_of_the_gap_that_free_links_take_away():
    problem = PlanningProblem.build(chain_graph(8, tensor_bytes=4e6), CLUSTER, num_microbatches=8)
    stages = Assignment(np.array([0, 0, 0, 1, 1, 1, 2, 2]), ((0,), (1,), (2,)))
    evaluator = Evaluator(problem)
    plan = evaluator.make_plan(stages, plan_of(problem).provenance)
    bound = lower_bound(problem)
    gap = gap_of(plan, bound, Objective.ITERATION_TIME)
    assert gap.whole == pytest.approx(plan.prediction.iteration_time_s / bound.value_s - 1)
    assert 0.0 < gap.transfers <= gap.whole
    assert gap.rest == pytest.approx(gap.whole - gap.transfers)
    assert "transfers, which it leaves out" in gap.describe()


def test_a_bound_that_counts_transfers_leaves_none_out():
    problem = PlanningProblem.build(chain_graph(8), CLUSTER, num_microbatches=8, objective="steady-state")
    gap = gap_of(plan_of(problem), Bound(1e-6, "sets"), Objective.STEADY_STATE)
    assert gap.transfers == 0.0
    assert "transfers" not in gap.describe()


def test_every_kind_of_bound_says_what_it_counts():
    problems = [
        PlanningProblem.build(chain_graph(4), CLUSTER, num_microbatches=4, objective=objective)
        for objective in ("iteration-time", "steady-state")
    ]
    assert {lower_bound(problem).kind for problem in problems} <= COUNTS.keys()


def test_a_plan_without_prediction_has_no_gap():
    problem = PlanningProblem.build(chain_graph(4), CLUSTER, num_microbatches=4)
    plan = dataclasses.replace(plan_of(problem), prediction=None)
    with pytest.raises(InputError, match="no prediction"):
        gap_of(plan, Bound(1.0, "work"), Objective.ITERATION_TIME)


def test_the_rest_is_what_transfers_leave():
    assert Gap(0.5, 0.2).rest == pytest.approx(0.3)
