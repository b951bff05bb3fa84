"""JSON and forms at the border: one line in the words of the file."""

from typing import NotRequired

import pytest
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from drlpp.errors import GraphError, PlanError
from drlpp.parsing import check_form, parse_json


class Box(TypedDict):
    size: int
    names: NotRequired[list[str]]


KEYS = list(Box.__annotations__)


def test_json():
    assert parse_json('{"a": [1, 2.5]}', "f.json", GraphError) == {"a": [1, 2.5]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b" 2}', "f.json line 2: not JSON: Expecting ':' delimiter"),
        ('{"a": [1,\n', "f.json line 2: not JSON: it ends in the middle: the file was not written to its end"),
        ('{"a": "no', "f.json line 1: not JSON: it ends in the middle: the file was not written to its end"),
        ("[" * 100_000, "f.json: not usable JSON: lists or mappings are nested too deep"),
        ("1" * 10_000, "f.json: not usable JSON: a whole number has too many digits"),
    ],
)
def test_what_is_not_json_is_refused(text, message):
    with pytest.raises(PlanError) as caught:
        parse_json(text, "f.json", PlanError)
    assert str(caught.value) == message


def test_what_has_the_form_passes():
    check_form(TypeAdapter(Box), {"size": 1, "names": ["a"]}, "f", PlanError, KEYS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "f: key 'size' is missing"),
        ({"size": "many"}, "f: size = 'many': must be a whole number"),
        ({"size": 1.5, "names": [1]}, "f: size = 1.5: must be a whole number (and 1 more)"),
        ({"size": 1, "names": ["a", 7]}, "f: names.1 = 7: must be text"),
        ({"size": 1, "names": "a" * 99}, f"f: names = '{'a' * 56}...: must be a list"),
        ([], "f: the file = []: must be a mapping of names to values"),
    ],
)
def test_what_has_not_is_refused_with_place_value_and_rule(data, message):
    with pytest.raises(PlanError) as caught:
        check_form(TypeAdapter(Box), data, "f", PlanError, KEYS)
    assert str(caught.value) == message
