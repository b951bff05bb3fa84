"""The fast evaluator against the reference simulator, on random problems of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.cost import place_stages
from drlpp.cost.stage_costs import stage_costs
from drlpp.errors import ScheduleError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Provenance, parse_action, validate
from drlpp.problem import PlanningProblem
from drlpp.schedules import from_schedule, schedules_for
from drlpp.schedules.replay import replay
from drlpp.sim import Evaluator, simulate
from random_problems import random_problem, with_action_times

WHO = Provenance(planner="test")


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_equals_the_reference(seed):
    problem, assignment = random_problem(seed)
    if seed % 4 == 0:
        problem = with_action_times(problem)
    evaluator = Evaluator(problem)
    costs = stage_costs(problem, assignment.stage_of_op, assignment.num_stages)
    number, shares = problem.training.num_microbatches, [s.shares for s in assignment.settings]
    placed = place_stages(costs, problem.cluster, assignment.devices, number, shares)
    for name in schedules_for(placed):
        plan = evaluator.make_plan(assignment, WHO, (name,))
        validate(plan)
        fast, reference = plan.prediction, simulate(plan).prediction
        assert fast.iteration_time_s == pytest.approx(reference.iteration_time_s, rel=1e-12)
        assert fast.peak_memory_bytes == pytest.approx(reference.peak_memory_bytes, rel=1e-9, abs=1e-2)
        assert fast.bubble_fraction == pytest.approx(reference.bubble_fraction, abs=1e-9)
        assert fast.bottleneck_s == pytest.approx(reference.bottleneck_s, rel=1e-12)


@pytest.mark.slow
def test_equals_the_reference_on_many_problems():
    for seed in range(1500):
        problem, assignment = random_problem(seed)
        plan = Evaluator(problem).make_plan(assignment, WHO)
        reference = simulate(plan).prediction
        assert plan.prediction.iteration_time_s == pytest.approx(reference.iteration_time_s, rel=1e-12), seed
        assert plan.prediction.peak_memory_bytes == pytest.approx(reference.peak_memory_bytes, abs=1e-2), seed


def test_deadlock_is_an_error():
    problem, _ = random_problem(1)
    problem = PlanningProblem.build(chain_graph(2), problem.cluster, num_microbatches=1)
    placed = place_stages(stage_costs(problem, np.arange(2), 2), problem.cluster, [(0,), (0,)], 1)
    swapped = {0: tuple(map(parse_action, ("1F0", "0F0", "1B0", "0B0")))}
    with pytest.raises(ScheduleError, match="deadlocks after 0 of 4 actions"):
        replay(placed, from_schedule(swapped, placed.used))
