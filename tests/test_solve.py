from __future__ import annotations

import pytest

from drlpp.errors import InputError
from drlpp.solve import make_planner, planner_names


def test_every_name_makes_its_planner():
    assert [make_planner(name).name for name in planner_names()] == planner_names()


def test_near_names_are_suggested_and_the_learned_planner_is_among_them():
    with pytest.raises(InputError, match=r"'drll' is not known: did you mean 'drl'\? use one of drl, data-parallel, "):
        make_planner("drll")
