"""Building modules whose parameters take no memory: shapes, dtypes and ties are kept, values are not.

Parameters become fake tensors (`FakeTensor`) of the CPU device at the moment a module registers
them, so that a model of any size is built in the memory of its largest single parameter (which PyTorch reserves
without touching it). Buffers keep their values, so constructors that compute with them still work. In contrast to the
meta device, the exported graph is the same as that of the real model: the device of every tensor is the same.

Left out: constructors that decide by the values of parameters: they read zeros, or fail (`needs_values`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from drlpp.torch_private import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    TorchDispatchMode,
)


class Construction:
    """What is known of modules that were made with hollow parameters.

    Attributes:
        mixed: values that are there were to be computed from ones that are not.
    """

    def __init__(self) -> None:
        self.mixed = False
        self._numbers: dict[int, tuple[int, torch.nn.Parameter]] = {}  # no weak references: see below

    def add(self, parameter: torch.nn.Parameter, number: int) -> None:
        """Notes the number of a hollow parameter."""
        self._numbers[id(parameter)] = number, parameter

    def number(self, parameter: torch.nn.Parameter) -> int | None:
        """How many parameters were registered before a hollow one; None if it is not known."""
        return self._numbers[id(parameter)][0] if id(parameter) in self._numbers else None


@contextmanager
def hollow_parameters(keep: Collection[int] = ()) -> Iterator[Construction]:
    """Context in which parameters of new modules are fake.

    Args:
        keep: numbers of parameters (`Construction.number`) that are real all the same: a part of a model is made.
    """
    construction = Construction()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    numbers = itertools.count()
    kept = WeakTensorKeyDictionary()
    fakes = WeakTensorKeyDictionary()  # a parameter that is registered twice stays one parameter

    def hollow_like(parameter: torch.Tensor) -> torch.nn.Parameter:
        size, stride = parameter.size(), parameter.stride()
        with mode:
            empty = torch.empty_strided(size, stride, dtype=parameter.dtype, device=parameter.device)
        return torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)

    def copied(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        """A copy has the values of its original, and therefore its number."""
        copy = hollow_like(parameter)
        number = construction.number(parameter)
        if number is not None:
            construction.add(copy, number)
        return copy

    def make_fake(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> Any:
        if parameter is None or is_hollow(parameter) or parameter in kept:
            return parameter
        if parameter in fakes:
            return fakes[parameter]
        number = next(numbers)
        if number in keep:
            kept[parameter] = number
            return parameter
        fake = hollow_like(parameter)
        fake.__dict__.update(parameter.__dict__)
        fakes[parameter] = fake
        construction.add(fake, number)
        return fake

    converter: Any = mode.fake_tensor_converter.meta_converter
    # Strong references for the time being: with a weak one to it, `Module.to` cannot change a fake parameter.
    memo, converter.tensor_memo = converter.tensor_memo, {}
    handle = register_module_parameter_registration_hook(make_fake)
    try:
        with _ZeroForUnknown(construction), _CopiesOfHollow(copied):
            yield construction
    finally:
        handle.remove()
        converter.tensor_memo = memo


class _ZeroForUnknown(TorchDispatchMode):
    """Answers zero (or False) where a constructor asks for the value of an element of a fake tensor."""

    def __init__(self, construction: Construction) -> None:
        super().__init__()
        self._construction = construction

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return torch.zeros((), dtype=args[0].dtype).item()
        written = [a for a, of in zip(args, func._schema.arguments, strict=False) if of.is_write]
        if written and any(isinstance(a, FakeTensor) for a in args):
            self._construction.mixed |= any(isinstance(w, torch.Tensor) and not is_hollow(w) for w in written)
        return func(*args, **(kwargs or {}))


class _CopiesOfHollow(TorchFunctionMode):
    """Copies hollow parameters when a constructor copies a module; PyTorch would copy what makes them fake, too."""

    def __init__(self, copied: Callable[[torch.nn.Parameter], torch.nn.Parameter]) -> None:
        super().__init__()
        self._copied = copied

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.__deepcopy__ or not isinstance(args[0], FakeTensor):
            return func(*args, **(kwargs or {}))
        original, memo = args
        if id(original) not in memo:
            memo[id(original)] = self._copied(original)
        return memo[id(original)]


def needs_values(error: Exception) -> bool:
    """Whether a constructor failed because it decides by the values of hollow parameters."""
    kinds = (DataDependentOutputException, DynamicOutputShapeException)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


def is_hollow(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no values (it is fake or on the meta device)."""
    return isinstance(tensor, FakeTensor) or tensor.is_meta
