"""Parsed JSON with one value replaced, for tests of how files are refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from drlpp.errors import InputError

WRONG = (None, True, -1, 1.5, float("nan"), float("inf"), 10**400, "", "x", [], [[]], {}, {"x": 1})


def places(data: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of every value of parsed JSON, of the first two entries of each list."""
    yield at
    entries = (
        list(data.items()) if isinstance(data, dict) else list(enumerate(data[:2])) if isinstance(data, list) else []
    )
    for key, value in entries:
        yield from places(value, (*at, key))


def replaced(data: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """A copy with another value at a place."""
    if not place:
        return value
    out = copy.deepcopy(data)
    inner = out
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return out


def edited(data: Any, place: Sequence[str | int], value: Any) -> Any:
    """A copy with another value at a place; None takes the key away."""
    if value is not None:
        return replaced(data, tuple(place), value)
    out = copy.deepcopy(data)
    inner = out
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    return out


def mutated(data: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """(place, copy with a wrong value there), for every place and each of `WRONG`; and with an unknown key."""
    for place in places(data):
        for value in WRONG:
            yield place, replaced(data, place, value)
    for place in places(data):
        inner = data
        for key in place:
            inner = inner[key]
        if isinstance(inner, dict):
            yield place, replaced(data, place, {**inner, "surprise": 1})


PYTHON_TEXT = re.compile(
    r"got an unexpected|object is not|NoneType|must be real number|unhashable|has no attribute|Traceback|not supported"
    r"|indices must be|could not convert|invalid literal|pydantic"
)


def refusal(read: Callable[[Any], object], data: Any, error: type[InputError]) -> str:
    """What `read` says of the data, empty if it takes them. Fails if it raises anything else or speaks as Python."""
    try:
        read(data)
    except error as caught:
        message = str(caught)
        assert "\n" not in message, message
        assert not PYTHON_TEXT.search(message), message
        return message
    return ""
