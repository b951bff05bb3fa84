"""Words of the command line."""

import pytest

from drlpp.cli.inputs import given_layers, parse_sizes, planner_list
from drlpp.errors import InputError


def test_planners_come_once_each():
    assert planner_list("dp, drl,dp") == ["dp", "drl"]
    assert "drl" in planner_list("all")


def test_sizes_and_layers():
    assert parse_sizes("1, 2,16") == (1, 2, 16)
    assert given_layers("5,2x10,5", None, None) == (5, *[2] * 10, 5)
    assert given_layers(None, "dp", 3) == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planner_list(" ,"), "names no planner"),
        (lambda: parse_sizes("2,0"), "'0' is not a whole number of at least 1"),
        (lambda: given_layers("5,x3", None, None), "'x3' is no number of layers"),
        (lambda: given_layers("5,5", "dp", None), "leave --planner and --num-stages out"),
        (lambda: given_layers("5,5", None, 3), "leave --planner and --num-stages out"),
    ],
)
def test_bad_words_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
