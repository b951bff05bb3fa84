"""The user's module with its loss, called with the tensors of a micro-batch by their names in the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import nn

from drlpp.capture.loss import ModelWithLoss
from drlpp.capture.module_call import ModuleCall
from drlpp.capture.python_state import StateKept
from drlpp.capture.recording import replaced


class OwnModel:
    """What was captured, as the user made it.

    Args:
        call: the module, in the modes in which the user left it, with its loss and the example.
        constants: tensors that it reads besides parameters and buffers, such as those in plain attributes.

    Attributes:
        module: the model with its loss.
    """

    def __init__(self, call: ModuleCall, constants: Mapping[str, torch.Tensor] = MappingProxyType({})) -> None:
        self._call = call
        self._constants = constants
        self.module = ModelWithLoss(call.module, call.loss_fn)

    def loss(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a micro-batch; inputs that are not given are those of the example. Copies are handed in."""
        given = {**self._call.inputs, **inputs}
        copies = {n: t.detach().clone().requires_grad_(t.requires_grad) for n, t in given.items()}
        args, kwargs = self._call.arguments(copies)
        with norms_of_one_process():
            return self.module(*args, **kwargs)  # type: ignore[no-any-return]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters, buffers and constants under the names that the graph has for them; a tied one once."""
        named = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return {**{name.removeprefix("model."): tensor for name, tensor in named.items()}, **self._constants}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters among `tensors`."""
        return {n: t for n, t in self.tensors().items() if isinstance(t, nn.Parameter)}


@contextmanager
def norms_of_one_process() -> Iterator[None]:
    """Within it, `nn.SyncBatchNorm` is the batch norm that it is in one process: it asks no other rank."""
    with replaced(nn.SyncBatchNorm, "forward", nn.modules.batchnorm._BatchNorm.forward):
        yield


@contextmanager
def left_alone(own: OwnModel) -> Iterator[None]:
    """Puts back all that training changes in a module: values, gradients, attributes, devices, random states."""
    state = StateKept(own.module)
    values = {n: (t, t.detach().clone()) for n, t in own.tensors().items()}
    gradients = {n: p.grad for n, p in own.parameters().items()}
    flags = {n: p.requires_grad for n, p in own.parameters().items()}
    recording = torch.is_grad_enabled()
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_grad_enabled(recording)
        state.restore()
        put_back(values)
        for name, parameter in own.parameters().items():
            parameter.requires_grad_(flags[name])
            parameter.grad = gradients[name]


def put_back(values: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Gives tensors their values back: name -> (tensor, value)."""
    with torch.no_grad():
        for tensor, value in values.values():
            if tensor.shape != value.shape:
                tensor.resize_(value.shape)
            if not torch.equal(tensor, value):
                tensor.copy_(value)
