"""The optimizers that a plan may name (`TrainingSetup.optimizer`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

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
