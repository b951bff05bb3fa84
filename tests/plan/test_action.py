"""Actions and their text."""

import pytest

from drlpp.errors import ScheduleError
from drlpp.plan import Action, parse_action


def test_actions():
    assert parse_action("12I3") == Action(12, "I", 3)
    assert str(Action(2, "F", 0)) == "2F0"
    for bad in ("F0", "2X0", "2F", "2F0 ", "", None):
        with pytest.raises(ScheduleError, match="is not an action"):
            parse_action(bad)
