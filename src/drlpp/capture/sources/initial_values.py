"""The initial values of a part of a model, without the memory of the whole.

The function that makes the model is run, and only the wanted parameters are real (`hollow`); every operator that draws
random numbers is seeded by its number, so that what a parameter gets depends on the seed alone, and not on which others
are real. Any constructor will do: ``reset_parameters``, initialisation of the whole model at the end, or neither.

Left out: random numbers that a constructor draws outside of PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from drlpp.capture.sources.fake_parameters import hollow_parameters, needs_values
from drlpp.errors import InputError
from drlpp.seeds import derived_seed
from drlpp.torch_private import FakeTensor, TorchDispatchMode


@contextmanager
def seeded_construction(seed: int) -> Iterator[None]:
    """Context in which modules are made with random numbers of their own; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]), _Seeded(seed):
        torch.manual_seed(seed)
        yield


def initial_values(
    make_model: Callable[[], torch.nn.Module], names: Collection[str], seed: int = 0
) -> Mapping[str, torch.Tensor]:
    """The values that some parameters have when the model is made.

    Needs the memory of these and of the largest other one. Where a wanted parameter is computed from another one, or a
    constructor decides by values, the whole model is made.

    Args:
        make_model: makes the model; called twice.
        names: of the wanted parameters.
        seed: of the values.

    Raises:
        InputError: the model has no such parameter.
    """
    try:
        with seeded_construction(seed), hollow_parameters() as hollow:
            wanted = _wanted(make_model(), names)
    except Exception as error:
        if not needs_values(error):
            raise
    else:
        numbers = {hollow.number(p) for p in wanted.values()}
        known = {number for number in numbers if number is not None}
        if len(known) == len(numbers):
            with seeded_construction(seed), hollow_parameters(keep=known) as part:
                made = make_model()
            if not part.mixed:
                return _values(made, names)
    with seeded_construction(seed):
        return _values(make_model(), names)


def _wanted(model: torch.nn.Module, names: Collection[str]) -> dict[str, torch.nn.Parameter]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if absent := [n for n in names if n not in parameters]:
        raise InputError(
            f"the model that make_model makes has no parameter {absent[0]!r}: make the one that was captured"
        )
    return {n: parameters[n] for n in names}


def _values(model: torch.nn.Module, names: Collection[str]) -> Mapping[str, torch.Tensor]:
    return {n: p.detach() for n, p in _wanted(model, names).items()}


class _Seeded(TorchDispatchMode):
    """Seeds every operator that draws random numbers by its number."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._drawn = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and (kwargs or {}).get("generator") is None:
            self._drawn += 1
            if func._schema.arguments[0].is_write and isinstance(args[0], FakeTensor):
                return args[0]  # it has no values to draw
            _seed(derived_seed(self._seed, self._drawn))
        return func(*args, **(kwargs or {}))


def _seed(seed: int) -> None:
    """What `torch.manual_seed` does, without the stack traces that it takes for backends which are not in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
