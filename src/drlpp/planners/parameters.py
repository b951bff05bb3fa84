"""Settings of planners: frozen dataclasses, what a plan file keeps of them, and how they are read again.

A planner that has settings takes them as its argument and gives them to its `Search`, so that the provenance of a plan
names every value that the search depended on.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from drlpp.errors import InputError

T = TypeVar("T")
UNTRAINED = Path("none")
"""In the place of a file of weights: a policy that learned nothing, with weights drawn from the seed."""


def recorded(parameters: Any) -> dict[str, Any]:
    """Name of each setting -> its value, as JSON has it: nested settings are objects, tuples are lists."""
    fields = dataclasses.fields(parameters)
    return {field.name: _plain(getattr(parameters, field.name)) for field in fields}


def restored(kind: type[T], record: Mapping[str, Any]) -> T:
    """The settings that a record keeps; those that it does not name have their defaults.

    Raises:
        InputError: the record names a setting that there is not, or a value that is out of range.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(record.keys() - known.keys()):
        raise InputError(
            f"setting {unknown[0]!r} is not one of {kind.__name__}: use the version of drlpp that made the plan"
        )
    types = typing.get_type_hints(kind)
    return kind(**{name: _of_plain(types[name], value) for name, value in record.items()})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return recorded(value)
    if isinstance(value, tuple | list):
        return [_plain(x) for x in value]
    if isinstance(value, Mapping):
        return {key: _plain(x) for key, x in value.items()}
    return str(value) if isinstance(value, Path) else value


def _of_plain(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return restored(typing.cast("type[Any]", kind), value)
    if isinstance(value, list):
        return tuple(_of_plain(Any, x) for x in value)
    return Path(value) if isinstance(value, str) and Path in typing.get_args(kind) else value
