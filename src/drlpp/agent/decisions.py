"""Masked categorical decisions, recorded so that their probabilities can be computed again under other weights."""

from __future__ import annotations

import dataclasses
from typing import Self

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Decisions:
    """T decisions of B episodes among N choices each; what was seen, and what was chosen.

    Attributes:
        features: ``[B, T, N, F]`` of the choices.
        mask: ``[B, T, N]`` legal choices; at least one is.
        choice: ``[B, T]``.
        valid: ``[B, T]`` there was a choice to make (False for padding and where one choice was legal).
        context: ``[B, T, ...]`` further inputs; what they are is said where they are made.
    """

    features: Tensor
    mask: Tensor
    choice: Tensor
    valid: Tensor
    context: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def select(self, rows: Tensor) -> Self:
        """The decisions of some of the episodes."""
        return dataclasses.replace(
            self,
            features=self.features[rows],
            mask=self.mask[rows],
            choice=self.choice[rows],
            valid=self.valid[rows],
            context={key: value[rows] for key, value in self.context.items()},
        )


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities over the last axis; illegal choices get a large negative number (not minus infinity)."""
    return torch.log_softmax(logits.masked_fill(~mask, -1e9), dim=-1)


def log_prob_and_entropy(logits: Tensor, decisions: Decisions) -> tuple[Tensor, Tensor]:
    """``[B, T]`` log-probability of what was chosen, and entropy; 0 where there was nothing to choose."""
    log_p = masked_log_softmax(logits, decisions.mask)
    chosen = log_p.gather(-1, decisions.choice.unsqueeze(-1)).squeeze(-1)
    entropy = -(log_p.exp() * log_p).masked_fill(~decisions.mask, 0.0).sum(-1)
    return chosen * decisions.valid, entropy * decisions.valid


class Chooser:
    """Draws choices from logits.

    Args:
        generator: source of randomness.
        greedy_first: episode 0 takes the most probable choice every time.
        temperature: logits are divided by it; above 1 explores.
    """

    def __init__(self, generator: torch.Generator, greedy_first: bool, temperature: float = 1.0) -> None:
        self._generator = generator
        self._greedy_first = greedy_first
        self._temperature = temperature

    def __call__(self, logits: Tensor, mask: Tensor) -> Tensor:
        """``[B]`` legal choices for logits and mask ``[B, N]`` (Gumbel-max sampling)."""
        noise = torch.rand(logits.shape, generator=self._generator).clamp_(1e-9, 1.0 - 1e-7)
        gumbel = -torch.log(-torch.log(noise))
        if self._greedy_first:
            gumbel[0] = 0.0
        return (logits.masked_fill(~mask, -1e9) / self._temperature + gumbel).argmax(dim=-1)
