"""A model and its loss as one module: what one training step computes on a micro-batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from drlpp.errors import CaptureError

LossFunction = Callable[..., torch.Tensor]
"""``loss_fn(output)`` or ``loss_fn(output, target)``; see `takes_target`."""
LOSS = "criterion"
"""Names of the loss function's parameters and buffers begin with it."""


class ModelWithLoss(torch.nn.Module):
    """A module and its loss as one module that returns the scalar loss."""

    def __init__(self, model: torch.nn.Module, loss_fn: LossFunction | None) -> None:
        super().__init__()
        self.model = model
        self.criterion = loss_fn  # under the name LOSS
        self._takes_target = loss_fn is not None and takes_target(loss_fn)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output, targets = self.call_model(args, kwargs)
        return self.loss_of(output, targets)

    def call_model(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The output of the model, and the target of the loss, if it takes one."""
        targets = []
        if self._takes_target:
            if kwargs:
                last = next(reversed(kwargs))
                targets, kwargs = [kwargs[last]], {k: v for k, v in kwargs.items() if k != last}
            else:
                *args, target = args  # type: ignore[assignment]
                targets = [target]
        return self.model(*args, **kwargs), targets

    def loss_of(self, output: Any, targets: list[Any]) -> torch.Tensor:
        """The scalar loss. Raises CaptureError if there is none."""
        if self.criterion is not None:
            return _scalar(self.criterion(output, *targets), "the loss function")
        if isinstance(output, torch.Tensor):
            return _scalar(output, "the module")
        loss = loss_in(output)
        if loss is None:
            raise CaptureError(
                f"the module returns {type(output).__name__} without a loss: return the scalar loss, an object with "
                "`.loss`, a tuple with one scalar tensor, or give a loss_fn(output)"
            )
        return _scalar(loss, "the module")


def loss_in(output: Any) -> torch.Tensor | None:
    """The loss that an output of a module carries: ``output["loss"]``, ``output.loss``, or the only scalar of a tuple
    or list, as in ``(loss, logits)``."""
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None and isinstance(output, (tuple, list)):
        tensors = [t for t in output if isinstance(t, torch.Tensor)]
        scalars = [t for t in tensors if t.dim() == 0 and t.is_floating_point()]
        loss = scalars[0] if len(scalars) == 1 else None
    return loss if isinstance(loss, torch.Tensor) else None


def takes_target(loss_fn: LossFunction) -> bool:
    """Whether a loss function must be given a second argument: the target, which is the last example input and is then
    not given to the model. Functions without a signature (``torch.sum``) take none."""
    function = loss_fn.forward if isinstance(loss_fn, torch.nn.Module) else loss_fn
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) > 1


def _scalar(loss: object, who: str) -> torch.Tensor:
    if not isinstance(loss, torch.Tensor):
        raise CaptureError(f"{who} returns {type(loss).__name__}: the loss must be a tensor with one element")
    if loss.numel() != 1 or not loss.is_floating_point():
        raise CaptureError(
            f"{who} returns a {loss.dtype} tensor of shape {list(loss.shape)}: the loss must have one element; reduce "
            "it (mean) or give a loss_fn(output)"
        )
    return loss.reshape(()) if loss.dim() else loss
