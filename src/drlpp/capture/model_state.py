"""Which tensors a module has under which names: parameters, buffers, and the keys of its state dict."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import nn


def module_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer under the first of its names, those that the loss does not read too."""
    first: dict[int, str] = {}
    out: dict[str, torch.Tensor] = {}
    for name, tensor in _named(module):
        if id(tensor) not in first:
            first[id(tensor)] = name
            out[name] = tensor
    return out


def state_keys(module: nn.Module) -> Mapping[str, str]:
    """Key of the module's state dict -> first name of the tensor. Buffers that are not persistent have none.

    A key whose value is no tensor of the module (it was made by a hook, or is extra state) is left out.
    """
    first: dict[int, str] = {}
    for name, tensor in _named(module):
        first.setdefault(id(tensor), name)
    state = module.state_dict(keep_vars=True)
    return {key: first[id(value)] for key, value in state.items() if id(value) in first}


def _named(module: nn.Module) -> itertools.chain[tuple[str, torch.Tensor]]:
    return itertools.chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )
