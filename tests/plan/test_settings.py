"""Settings of stages: what one becomes elsewhere, and how they are written."""

import pytest

from drlpp.errors import PlanError
from drlpp.graph.blocks import Recompute
from drlpp.plan.settings import AGAIN, PLAIN, StageSettings, as_columns, fitted_to, of_columns

BLOCKS = StageSettings(Recompute.BLOCK)


def test_a_flag_stands_for_the_whole_stage():
    assert StageSettings(True) == AGAIN
    assert StageSettings(False) == PLAIN == StageSettings()
    assert isinstance(StageSettings(True).recompute, Recompute)


def test_shares_belong_to_the_devices():
    given = StageSettings(Recompute.STAGE, (2, 6))
    assert given.elsewhere == AGAIN
    assert AGAIN.elsewhere is AGAIN
    assert given.fitted(2, 0).shares == (1, 3)
    with pytest.raises(PlanError, match="stage 4 has 2 shares for 3 replicas"):
        given.fitted(3, 4)


def test_recomputation_is_changed():
    assert [s.toggled for s in (PLAIN, AGAIN, BLOCKS)] == [AGAIN, PLAIN, PLAIN]
    assert [s.by_blocks for s in (PLAIN, AGAIN, BLOCKS)] == [PLAIN, BLOCKS, BLOCKS]


def test_there_is_one_setting_for_each_stage():
    assert fitted_to((), ((0,), (1, 2))) == (PLAIN, PLAIN)
    with pytest.raises(PlanError, match="1 settings for 2 stages: give one per stage"):
        fitted_to((PLAIN,), ((0,), (1, 2)))


def test_columns_are_read_as_they_were_written():
    settings = (StageSettings(Recompute.BLOCK, (1, 2)), PLAIN)
    assert as_columns(settings) == {"recompute": [2, 0], "shares": [(1, 2), ()]}
    assert of_columns(as_columns(settings)) == settings
    assert of_columns({"recompute": [False, True], "devices": [[0], [1]]}) == (PLAIN, AGAIN)
    assert of_columns({}) == ()
