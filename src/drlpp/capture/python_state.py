"""What a module keeps outside of its parameters and buffers: attributes, and random numbers of Python and NumPy.

A graph cannot hold such state. `StateKept` puts it back after the module ran, so that a capture leaves the module as it
was; `changed_numbers` and `RandomStates` say what a forward pass changed.
"""

from __future__ import annotations

import copy
import random
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

_TABLES = ("_parameters", "_buffers", "_modules")
_OF_MODULES = frozenset(vars(nn.Module()))
_CONTAINERS = (list, dict, set, deque)
Number = int | float | bool | str | None
Place = tuple[Any, Any]
"""A dict, list or object, and the key, index or attribute in it."""


class StateKept:
    """The attributes of a module and its submodules as they are now; `restore` puts them back.

    Containers that are attributes get their content back, one level deep.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attributes = []
        for module in model.modules():
            own = vars(module)
            tables = {name: dict(own[name]) for name in _TABLES}
            contents = {k: copy.copy(v) for k, v in own.items() if k not in _OF_MODULES and type(v) in _CONTAINERS}
            numbers = {k: dict(vars(v)) for k, v in own.items() if k not in _OF_MODULES and _has_attributes(v)}
            self._attributes.append((module, dict(own), tables, contents, numbers))
        self._random = RandomStates()

    def restore(self) -> None:
        """Puts back what was there; the values of tensors are left alone."""
        for module, attributes, tables, contents, numbers in self._attributes:
            own = vars(module)
            own.clear()
            own.update(attributes)
            for name, table in tables.items():
                own[name].clear()
                own[name].update(table)
            for name, content in contents.items():
                held = own[name]
                held.clear()
                held.extend(content) if isinstance(held, (list, deque)) else held.update(content)
            for name, values in numbers.items():
                vars(own[name]).clear()
                vars(own[name]).update(values)
        self._random.restore()


class RandomStates:
    """Where the generators of PyTorch, Python and NumPy are now."""

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._python = random.getstate()
        self._numpy = _numpy_random().get_state() if _numpy_random() else None

    def restore(self) -> None:
        """Puts the generators back."""
        torch.set_rng_state(self._torch)
        random.setstate(self._python)
        if self._numpy is not None:
            _numpy_random().set_state(self._numpy)

    def drawn_since(self) -> str:
        """``Python's random`` or ``numpy.random`` if the module drew from it since; else an empty string."""
        if random.getstate() != self._python:
            return "Python's random"
        before = self._numpy
        now = None if before is None else _numpy_random().get_state()
        if before is not None and now is not None and (now[2:] != before[2:] or (now[1] != before[1]).any()):
            return "numpy.random"
        return ""


def numbers(model: nn.Module) -> Mapping[str, tuple[Place, Number]]:
    """Path of every number, flag or string that the modules keep in an attribute -> where it is, and its value.

    Looks into lists, dicts and plain objects that are attributes.
    """
    found: dict[str, tuple[Place, Number]] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in _OF_MODULES and key != "training":
                continue
            path = f"{name}.{key}" if name else key
            for inner, place, number in _numbers_in(vars(module), key, value):
                found[path + inner] = place, number
    return found


def tensors_in_attributes(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Path of every tensor that the modules keep in a plain attribute, or in a list, tuple or dict that is one."""
    found = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in _OF_MODULES:
                continue
            path = f"{name}.{key}" if name else key
            held = value.values() if isinstance(value, dict) else value
            for leaf in held if isinstance(value, (dict, list, tuple, deque)) else (value,):
                if isinstance(leaf, torch.Tensor):
                    found[path] = leaf
    return found


def changed_numbers(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Paths of `numbers` whose value differs."""
    return [p for p, (_, value) in after.items() if p not in before or not _same(before[p][1], value)]


def set_number(place: Place, value: Number) -> None:
    """Sets what `numbers` found."""
    holder, key = place
    holder[key] = value


class NumbersKept:
    """The numbers, flags and strings in attributes of modules as they are now; a graph holds these values.

    The modes of modules are left out: a user may put his own copy into eval mode and back.

    Args:
        modules: with their sub-modules.
    """

    def __init__(self, *modules: nn.Module) -> None:
        found = [item for module in modules for item in numbers(module).items()]
        self._values = [
            (path, *place, value)
            for path, (place, value) in found
            if _same(_held(*place), value) and place[1] != "training"
        ]

    def changed(self, *, counters: bool) -> str:
        """The first attribute that has another value now, with both; empty if none has.

        Args:
            counters: look at integers that grew, which a pass of the module itself may do, or at everything else.
        """
        for path, holder, key, value in self._values:
            now = _held(holder, key)
            if now is not value and not _same(now, value) and counters == _grew(value, now):
                return f"attribute {path!r} was {value!r} at the capture and is {now!r} now"
        return ""


def _grew(before: Number, now: Any) -> bool:
    whole = all(isinstance(x, int) and not isinstance(x, bool) for x in (before, now))
    return whole and now > before


def _held(holder: Any, key: Any) -> Any:
    try:
        return holder[key]
    except (KeyError, IndexError):
        return None


def _same(a: Number, b: Number) -> bool:
    return a == b or (a != a and b != b)


def _numbers_in(holder: Any, key: Any, value: Any) -> Iterator[tuple[str, Place, Number]]:
    if value is None or isinstance(value, (int, float, str)):
        yield "", (holder, key), value
    elif isinstance(value, (random.Random, torch.Generator)) or type(value).__module__.startswith("numpy.random"):
        yield "", (holder, key), _generator_state(value)
    elif type(value) in (list, dict) and len(value) <= 1000:
        for k, v in value.items() if isinstance(value, dict) else enumerate(value):
            if v is None or isinstance(v, (int, float, str)):
                yield f"[{k!r}]", (value, k), v
    elif _has_attributes(value):
        for k, v in vars(value).items():
            if v is None or isinstance(v, (int, float, str)):
                yield f".{k}", (vars(value), k), v


def _has_attributes(value: Any) -> bool:
    """Whether a value is a plain object of the user, with attributes of its own."""
    if isinstance(value, (type, nn.Module, torch.Tensor)) or callable(value):
        return False
    of = type(value).__module__.partition(".")[0]
    return hasattr(value, "__dict__") and of not in ("builtins", "torch", "numpy", "transformers", "timm", "random")


def _generator_state(generator: Any) -> str:
    if isinstance(generator, random.Random):
        return repr(hash(generator.getstate()))
    if isinstance(generator, torch.Generator):
        return repr(hash(generator.get_state().numpy().tobytes()))
    state = generator.bit_generator.state if hasattr(generator, "bit_generator") else generator.get_state()
    return repr(state)


def _numpy_random() -> Any:
    return sys.modules.get("numpy.random")
