"""Assignments: what is checked, and how one is made of another."""

import json

import numpy as np
import pytest

from drlpp.errors import PlanError
from drlpp.plan import Assignment


def test_assignments():
    a = Assignment.compact(np.array([0, 3, 3]), {0: (1,), 2: (5,), 3: (0, 2)})
    assert a.stage_of_op.tolist() == [0, 1, 1]
    assert a.devices == ((1,), (0, 2))
    assert a.recompute == (False, False)
    with pytest.raises(PlanError, match="each once"):
        Assignment(np.array([0]), ((1, 1),))
    with pytest.raises(PlanError, match="one per stage"):
        Assignment(np.array([0]), ((1,),), (True, False))


def test_labels_with_gaps_keep_devices_and_recompute_flags():
    start = Assignment(np.array([0, 1, 2]), ((3,), (1, 4), (2,)), (True, False, True))
    moved = start.with_labels(np.array([0, 2, 2]))
    assert moved.stage_of_op.tolist() == [0, 1, 1]
    assert (moved.devices, moved.recompute) == (((3,), (2,)), (True, True))


def test_what_is_rearranged_keeps_what_belongs_to_its_stages():
    start = Assignment(np.array([0, 1, 1]), ((0,), (1,)), (False, True))
    parted = start.rearranged(np.array([0, 1, 2]), ((0,), (1,), (2,)), [0, 1, 1])
    assert parted.recompute == (False, True, True)
    assert parted.with_recompute_toggled(1).recompute == (False, False, True)
    assert len({start.key, parted.key, parted.with_recompute_toggled(0).key}) == 3


def test_a_record_can_be_read_again():
    start = Assignment(np.array([0, 1, 1]), ((0,), (2, 1)), (False, True), ((), (1, 3)))
    assert Assignment.of_record(json.loads(json.dumps(start.record))).key == start.key
    older = {key: value for key, value in start.record.items() if key != "shares"}
    assert Assignment.of_record(older).shares == ((), ())


def test_shares_are_kept_in_lowest_terms():
    labels, devices = np.array([0, 1, 1]), ((0, 3), (2, 1))
    unequal = Assignment(labels, devices, shares=((2, 2), (2, 4)))
    assert unequal.shares == ((), (1, 2))
    assert unequal.key == Assignment(labels, devices, shares=((), (3, 6))).key != Assignment(labels, devices).key
    assert Assignment(labels, devices, shares=((), ())).shares == Assignment(labels, devices).shares == ((), ())
    with pytest.raises(PlanError, match="shares are given for 1 stages: there are 2"):
        Assignment(labels, devices, shares=((1, 2),))
    with pytest.raises(PlanError, match="stage 1 has 3 shares for 2 replicas"):
        Assignment(labels, devices, shares=((), (1, 2, 3)))


def test_shares_stay_where_the_devices_do():
    start = Assignment(np.array([0, 1, 2]), ((0, 3), (2, 1), (4,)), shares=((1, 5), (1, 2), ()))
    assert start.with_labels(np.array([1, 1, 2])).shares == ((1, 2), ())
    parted = start.rearranged(np.array([0, 1, 2]), ((0, 3), (3, 0), (4,)), [0, 0, 2])
    assert parted.shares == ((1, 5), (), ())
