"""Rounding in the gradients of one process, to see what an optimizer makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from drlpp.runtime.optimizers import Optimizer

FLOOR = 0.1
"""Tensors and elements below this part of the typical size of their kind are measured against it."""
MakeOptimizer = Callable[[Sequence[nn.Parameter]], Optimizer]


def with_rounding(make_optimizer: MakeOptimizer, noise: float, seed: int) -> MakeOptimizer:
    """A maker of optimizers that add random numbers to the gradients before each step.

    Args:
        make_optimizer: parameters -> optimizer.
        noise: norm of what is added, in parts of the norm of the gradient, or of one of `FLOOR` of the typical size.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def make(parameters: Sequence[nn.Parameter]) -> Optimizer:
        optimizer = make_optimizer(parameters)
        optimizer.register_step_pre_hook(lambda *_: _add(parameters, noise, generator))
        return optimizer

    return make


def _add(parameters: Sequence[nn.Parameter], noise: float, generator: torch.Generator) -> Any:
    gradients = [p.grad for p in parameters if p.grad is not None and not p.grad.is_sparse]
    count = sum(g.numel() for g in gradients)
    typical = math.sqrt(sum(float(g.double().square().sum()) for g in gradients) / count) if count else 0.0
    for gradient in gradients:
        size = max(float(gradient.double().square().mean().sqrt()), FLOOR * typical)
        drawn = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        gradient.add_((drawn * noise * size).to(gradient))
