"""Assignments: what is checked, and how one is made of another."""

import json

import numpy as np
import pytest

from drlpp.errors import PlanError
from drlpp.plan import Assignment
from drlpp.plan.settings import AGAIN, PLAIN, StageSettings, of_columns


def test_assignments():
    a = Assignment.compact(np.array([0, 3, 3]), {0: (1,), 2: (5,), 3: (0, 2)})
    assert a.stage_of_op.tolist() == [0, 1, 1]
    assert a.devices == ((1,), (0, 2))
    assert a.settings == (PLAIN, PLAIN)
    with pytest.raises(PlanError, match="each once"):
        Assignment(np.array([0]), ((1, 1),))
    with pytest.raises(PlanError, match="2 settings for 1 stages: give one per stage"):
        Assignment(np.array([0]), ((1,),), (AGAIN, PLAIN))


def test_labels_with_gaps_keep_devices_and_settings():
    start = Assignment(np.array([0, 1, 2]), ((3,), (1, 4), (2,)), (AGAIN, PLAIN, AGAIN))
    moved = start.with_labels(np.array([0, 2, 2]))
    assert moved.stage_of_op.tolist() == [0, 1, 1]
    assert (moved.devices, moved.settings) == (((3,), (2,)), (AGAIN, AGAIN))


def test_what_is_rearranged_keeps_what_belongs_to_its_stages():
    start = Assignment(np.array([0, 1, 1]), ((0,), (1,)), (PLAIN, AGAIN))
    parted = start.rearranged(np.array([0, 1, 2]), ((0,), (1,), (2,)), [0, 1, 1])
    assert parted.settings == (PLAIN, AGAIN, AGAIN)
    other = parted.with_settings(1, PLAIN)
    assert other.settings == (PLAIN, PLAIN, AGAIN)
    assert len({start.key, parted.key, other.key}) == 3


def test_blocks_are_computed_again_in_place_of_whole_stages():
    start = Assignment(np.array([0, 1, 1]), ((0,), (1,)), (PLAIN, AGAIN))
    assert [s.recompute.name for s in start.with_blocks_again().settings] == ["NONE", "BLOCK"]
    assert start.with_blocks_again().with_blocks_again() == start.with_blocks_again()
    plain = Assignment(np.array([0]), ((0,),))
    assert plain.with_blocks_again() is plain


def test_a_record_can_be_read_again():
    settings = of_columns({"recompute": (False, True), "shares": ((), (1, 3))})
    start = Assignment(np.array([0, 1, 1]), ((0,), (2, 1)), settings)
    assert Assignment.of_record(json.loads(json.dumps(start.record))).key == start.key
    older = {key: value for key, value in start.record.items() if key != "shares"}
    assert Assignment.of_record(older).settings == (PLAIN, AGAIN)


def with_shares(*shares):
    return of_columns({"shares": shares})


def test_shares_are_kept_in_lowest_terms():
    labels, devices = np.array([0, 1, 1]), ((0, 3), (2, 1))
    unequal = Assignment(labels, devices, with_shares((2, 2), (2, 4)))
    assert unequal.settings == (PLAIN, StageSettings(shares=(1, 2)))
    assert unequal.key == Assignment(labels, devices, with_shares((), (3, 6))).key != Assignment(labels, devices).key
    with pytest.raises(PlanError, match="stage 1 has 3 shares for 2 replicas"):
        Assignment(labels, devices, with_shares((), (1, 2, 3)))


def test_shares_stay_where_the_devices_do():
    start = Assignment(np.array([0, 1, 2]), ((0, 3), (2, 1), (4,)), with_shares((1, 5), (1, 2), ()))
    assert start.with_labels(np.array([1, 1, 2])).settings == with_shares((1, 2), ())
    parted = start.rearranged(np.array([0, 1, 2]), ((0, 3), (3, 0), (4,)), [0, 0, 2])
    assert parted.settings == with_shares((1, 5), (), ())
