"""Options in groups: a verb takes dataclasses, and the command line takes their fields one by one."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """The function of typer for a verb: each parameter that is a dataclass stands for its fields, in their order."""
    hints = get_type_hints(verb, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}
    flat: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in groups:
            flat += inspect.signature(groups[name]).parameters.values()
        else:
            flat.append(parameter)
    types = {
        **hints,
        **{k: v for group in groups.values() for k, v in get_type_hints(group, include_extras=True).items()},
    }
    flat = [p.replace(annotation=types[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in flat]

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
        verb(**given)

    command.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in flat}
    return command
