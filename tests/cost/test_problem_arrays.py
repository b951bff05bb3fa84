"""Assignments as arrays."""

import numpy as np
import pytest

from drlpp.cost.problem_arrays import pack, problem_arrays
from drlpp.errors import PlanError, ScheduleError
from drlpp.graph.blocks import Recompute
from drlpp.plan import Assignment, StageSettings
from planner_cases import small_problem

PROBLEM = small_problem(0, [["fast", "mid"], ["slow"]], num_ops=4)
HALVES, ONE = np.array([0, 0, 1, 1]), np.zeros(4, dtype=np.int64)


def test_the_arrays_of_a_problem_are_made_once():
    assert problem_arrays(PROBLEM) is problem_arrays(PROBLEM)


def test_stages_and_slots_follow_each_other():
    two = Assignment(HALVES, ((2,), (0, 1)), (StageSettings(Recompute.BLOCK), StageSettings()))
    packed = pack(PROBLEM, [two, Assignment(ONE, ((1,),))])
    assert packed.labels.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert packed.stage_off.tolist() == [0, 2, 3]
    assert packed.slot_off.tolist() == [0, 3, 4]
    assert packed.replicas.tolist() == [1, 2, 1]
    assert packed.devices.tolist() == [2, 0, 1, 1]
    assert packed.recompute.tolist() == [2, 0, 0]
    assert packed.shares.tolist() == []


def test_shares_are_there_if_any_are_unequal():
    uneven = Assignment(HALVES, ((2,), (0, 1)), (StageSettings(), StageSettings(shares=(3, 1))))
    assert pack(PROBLEM, [uneven, Assignment(ONE, ((1, 2),))]).shares.tolist() == [1, 3, 1, 1, 1]


def test_what_does_not_fit_the_problem_is_refused():
    with pytest.raises(ScheduleError, match=r"devices 3\.\.3: .* has devices 0\.\.2"):
        pack(PROBLEM, [Assignment(ONE, ((3,),))])
    with pytest.raises(PlanError, match="the partition has 3 entries"):
        pack(PROBLEM, [Assignment(ONE[:3], ((0,),))])
