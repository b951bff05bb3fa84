"""How the user's module was called when it was captured: the names of its inputs, and other inputs in their places."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from drlpp.capture.loss import LossFunction
from drlpp.capture.python_state import NumbersKept
from drlpp.torch_private import TreeSpec, tree_flatten, tree_unflatten


@dataclasses.dataclass(frozen=True)
class Entry:
    """One argument of the call.

    Attributes:
        key: its keyword; None: it is given by position.
        names: of its leaves, which are inputs.
        leaves: its tensors (and constants) in the example.
        spec: how they are nested.
    """

    key: str | None
    names: tuple[str, ...]
    leaves: tuple[Any, ...]
    spec: TreeSpec


@dataclasses.dataclass(frozen=True)
class ModuleCall:
    """The user's module, its loss, and the example inputs in the form in which the module takes them.

    Attributes:
        module: in the modes in which it was captured.
        loss_fn: see `drlpp.capture.loss`.
        entries: the arguments in order; with a loss function that takes a target, the target is the last one.
        numbers: the values of attributes that the graph holds.
        modes: name of every sub-module -> whether it is in training mode.
        whole: modules that the graph has as one operator, and why.
    """

    module: nn.Module
    loss_fn: LossFunction | None
    entries: tuple[Entry, ...]
    modes: Mapping[str, bool]
    numbers: NumbersKept
    whole: Mapping[str, str]

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """The tensors of the example, by name; those that the captured graph does not read too."""
        return {
            name: leaf
            for entry in self.entries
            for name, leaf in zip(entry.names, entry.leaves, strict=True)
            if isinstance(leaf, torch.Tensor)
        }

    def arguments(self, tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with other tensors in the place of the example's.

        An argument of which no tensor is given is left out; constants stay.
        """
        args, kwargs = [], {}
        for entry in self.entries:
            inputs = [n for n, leaf in zip(entry.names, entry.leaves, strict=True) if isinstance(leaf, torch.Tensor)]
            if inputs and not any(n in tensors for n in inputs):
                continue
            leaves = [tensors.get(n, leaf) for n, leaf in zip(entry.names, entry.leaves, strict=True)]
            value = tree_unflatten(leaves, entry.spec)
            if entry.key is None:
                args.append(value)
            else:
                kwargs[entry.key] = value
        return tuple(args), kwargs


def entries_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], names: list[str]) -> tuple[Entry, ...]:
    """The arguments of a call; `names` has one name per leaf of ``(args, kwargs)``, in order."""
    out, at = [], 0
    for key, value in [*((None, a) for a in args), *kwargs.items()]:
        leaves, spec = tree_flatten(value)
        out.append(Entry(key, tuple(names[at : at + len(leaves)]), tuple(leaves), spec))
        at += len(leaves)
    return tuple(out)
