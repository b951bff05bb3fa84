"""What the memory of a device holds at its peak."""

from __future__ import annotations

import dataclasses

import pytest

from drlpp.cost.groups import lifted
from drlpp.plan import Provenance
from drlpp.report.memory_parts import memory_parts, memory_rows
from drlpp.sim import Evaluator, simulate
from drlpp.training import TrainingSetup
from hand_plans import make_plan
from random_groups import random_grouped_problem


def test_the_parts_make_the_peak(problem, plan, simulation):
    found = memory_parts(plan, simulation.prediction)
    assert [parts.device for parts in found] == list(range(8))
    for parts, peak in zip(found, simulation.prediction.peak_memory_bytes, strict=True):
        assert parts.peak == pytest.approx(peak)
    first = found[0]
    ops = [problem.graph.ops[problem.graph.index[name]] for name in plan.stages[0].ops]
    own = sum(problem.graph.param_bytes[p] for op in ops for p in op.params)
    assert first.parameters == first.gradients == first.states == own
    assert first.activations > 0
    assert found[-1].peak == 0


def test_replicas_divide_states_with_zero1(problem):
    both = []
    for zero1 in (False, True):
        training = TrainingSetup(num_microbatches=8, optimizer="adamw", zero1=zero1)
        both.append(make_plan(dataclasses.replace(problem, training=training), [0] * 8, [(0, 1)], "t"))
    whole, divided = (memory_parts(p, simulate(p).prediction)[0] for p in both)
    assert divided.states == pytest.approx(whole.states / 2)
    assert divided.parameters == whole.parameters


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_members_of_a_group_hold_their_part(seed):
    problem, grouping, made, assignment = random_grouped_problem(seed)
    evaluator = Evaluator(made)
    if not evaluator.evaluate(assignment).feasible:
        return
    plan = lifted(evaluator.make_plan(assignment, Provenance(planner="t")), problem.cluster, grouping)
    prediction = simulate(plan).prediction
    for parts, peak in zip(memory_parts(plan, prediction), prediction.peak_memory_bytes, strict=True):
        assert parts.peak == pytest.approx(peak)


def test_devices_that_hold_the_same_are_one_row(problem):
    plan = make_plan(problem, [0] * 8, [(2, 3, 4, 5)], "t")
    rows = memory_rows(plan, simulate(plan).prediction)
    assert [row["device"] for row in rows] == ["#0-1 a100", "#2-5 v100", "#6-7 t4"]
    assert rows[0]["peak"] == "0 B"
    assert rows[1]["parameters"] != "0 B"
