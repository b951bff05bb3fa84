"""The optimizers that a plan may name (`TrainingSetup.optimizer`), and the gradient scalers that may go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from drlpp.errors import InputError

Optimizer = torch.optim.Optimizer

MOMENTUM = 0.9


def optimizer_factory(name: str, learning_rate: float) -> Callable[[Sequence[nn.Parameter]], Optimizer]:
    """``sgd``, ``momentum`` or ``adamw`` -> a function from parameters to an optimizer."""
    makers: dict[str, Callable[[Sequence[nn.Parameter]], Optimizer]] = {
        "sgd": lambda parameters: torch.optim.SGD(_group(parameters), lr=learning_rate),
        "momentum": lambda parameters: torch.optim.SGD(_group(parameters), lr=learning_rate, momentum=MOMENTUM),
        "adamw": lambda parameters: torch.optim.AdamW(_group(parameters), lr=learning_rate),
    }
    return makers[name]


def _group(parameters: Sequence[nn.Parameter]) -> list[dict[str, list[nn.Parameter]]]:
    """One group: an optimizer refuses an empty list of parameters, but not an empty group; a rank may hold none."""
    return [{"params": list(parameters)}]


def check_scaler(scaler: object) -> None:
    """Raises InputError for a gradient scaler with which each rank decides for itself; None is no scaler."""
    if scaler is None:
        return
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler  # half a second

    if not isinstance(scaler, ShardedGradScaler):
        raise InputError(
            f"scaler is a {type(scaler).__module__}.{type(scaler).__name__}, which lets each rank decide: "
            "use torch.distributed.fsdp.sharded_grad_scaler.ShardedGradScaler, which decides once for all"
        )
