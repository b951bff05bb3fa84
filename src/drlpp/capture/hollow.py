"""Building modules whose parameters take no memory: shapes, dtypes and ties are kept, values are not.

Parameters become fake tensors (`torch._subclasses.fake_tensor`) of the CPU device at the moment a module registers
them, so that a model of any size is built in the memory of its largest single parameter (which PyTorch reserves
without touching it). Buffers keep their values, so constructors that compute with them still work. In contrast to the
meta device, the exported graph is the same as that of the real model: the device of every tensor is the same.

Left out: constructors that read values of parameters (they fail on fake tensors; build such a model with values).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.weak import WeakTensorKeyDictionary


@contextmanager
def hollow_parameters() -> Iterator[None]:
    """Context in which parameters of new modules are fake."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = WeakTensorKeyDictionary()  # a parameter that is registered twice stays one parameter

    def make_fake(
        module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None
    ) -> torch.nn.Parameter | None:
        if parameter is None or is_hollow(parameter):
            return parameter
        if parameter in fakes:
            return fakes[parameter]
        with mode:
            empty = torch.empty_strided(
                parameter.size(), parameter.stride(), dtype=parameter.dtype, device=parameter.device
            )
        fake = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
        fake.__dict__.update(parameter.__dict__)
        fakes[parameter] = fake
        return fake

    handle = register_module_parameter_registration_hook(make_fake)
    try:
        yield
    finally:
        handle.remove()


def is_hollow(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no values (it is fake or on the meta device)."""
    return isinstance(tensor, FakeTensor) or tensor.is_meta
