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
    start = Assignment(np.array([0, 1, 1]), ((0,), (2, 1)), (False, True))
    assert Assignment.of_record(json.loads(json.dumps(start.record))).key == start.key
