"""Masked categorical decisions, recorded so that their probabilities can be computed again under other weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
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


def stack_steps(record: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """``[B, T, ...]`` of what T steps recorded, ``[B, ...]`` each."""
    return tuple(torch.stack(x, dim=1) for x in zip(*record, strict=True))


Choose = Callable[[Tensor, Tensor], Tensor]
"""Takes logits and mask ``[B, N]`` and gives choices ``[B]``."""


class Chooser:
    """Draws choices from logits.

    Args:
        generator: source of randomness.
        greedy: so many episodes, the first ones, take the most probable choice every time.
        temperature: logits are divided by it; above 1 explores.
    """

    def __init__(self, generator: torch.Generator, greedy: int = 0, temperature: float = 1.0) -> None:
        self._generator = generator
        self._greedy = greedy
        self._temperature = temperature

    def __call__(self, logits: Tensor, mask: Tensor, episodes: Tensor | None = None) -> Tensor:
        """``[B]`` legal choices for logits and mask ``[B, N]`` (Gumbel-max sampling).

        Args:
            episodes: ``[B]`` which ones these are; None for all from the first.
        """
        noise = torch.rand(logits.shape, generator=self._generator).clamp_(1e-9, 1.0 - 1e-7)
        gumbel = -torch.log(-torch.log(noise))
        index = torch.arange(len(logits)) if episodes is None else episodes
        gumbel[index < self._greedy] = 0.0
        return (logits.masked_fill(~mask, -1e9) / self._temperature + gumbel).argmax(dim=-1)


class Repeat:
    """Makes given decisions again, step by step.

    Args:
        choices: ``[B, T]``; once they are used up, choice 0 is taken.
    """

    def __init__(self, choices: Tensor) -> None:
        self._choices = choices
        self._step = 0

    def __call__(self, logits: Tensor, mask: Tensor) -> Tensor:
        """``[B]`` of the next step."""
        self._step += 1
        if self._step > self._choices.shape[1]:
            return torch.zeros(len(logits), dtype=torch.int64)
        return self._choices[:, self._step - 1]


class GoOn:
    """Makes the first of given decisions again, and goes on with others.

    Args:
        choices: ``[B, T]``.
        kept: ``[B]`` how many decisions of each episode are made again.
        choose: makes the others.
    """

    def __init__(self, choices: Tensor, kept: Tensor, choose: Chooser) -> None:
        self._again = Repeat(choices)
        self._kept = kept
        self._choose = choose
        self._step = 0

    def __call__(self, logits: Tensor, mask: Tensor) -> Tensor:
        """``[B]`` of the next step."""
        self._step += 1
        return torch.where(self._step <= self._kept, self._again(logits, mask), self._choose(logits, mask))


class Beam:
    """Draws sequences of decisions without replacement.

    Source: Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them" (ICML 2019): of all sequences, those
    with the largest log-probability plus Gumbel noise are a sample without replacement, and they can be found top down.

    Args:
        generator: source of randomness.
        size: number of sequences.
        greedy_first: the sequence of most probable choices is the first one.
    """

    def __init__(self, generator: torch.Generator, size: int, greedy_first: bool) -> None:
        self._generator = generator
        self._size = size
        self._log_p = torch.zeros(1)
        self._perturbed = torch.zeros(1)
        self._greedy = torch.tensor([greedy_first])

    def __call__(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One decision more, of the sequences so far.

        Args:
            logits, mask: ``[B, N]``; the first time B is 1.

        Returns:
            ``[B']`` which sequence goes on, and ``[B']`` the choice it makes.
        """
        own = masked_log_softmax(logits, mask)
        log_p = (self._log_p.unsqueeze(1) + own).masked_fill(~mask, -torch.inf)
        noise = torch.rand(log_p.shape, generator=self._generator).clamp_(1e-9, 1.0 - 1e-7)
        drawn = log_p - torch.log(-torch.log(noise))
        most = drawn.amax(dim=1, keepdim=True)
        # the largest of a sequence's continuations is its own value: all others are moved below it
        above = self._perturbed.unsqueeze(1) - drawn + torch.log1p(-torch.exp(drawn - most))
        perturbed = self._perturbed.unsqueeze(1) - above.clamp(min=0.0) - torch.log1p(torch.exp(-above.abs()))
        perturbed = perturbed.masked_fill(~mask, -torch.inf)
        greedy = self._greedy.unsqueeze(1) & (torch.arange(mask.shape[1]) == own.argmax(dim=1, keepdim=True))
        rank = torch.where(greedy, torch.inf, perturbed).flatten()
        kept = torch.argsort(rank, descending=True, stable=True)[: min(self._size, int(mask.sum()))]
        self._log_p, self._perturbed, self._greedy = (x.flatten()[kept] for x in (log_p, perturbed, greedy))
        return kept // mask.shape[1], kept % mask.shape[1]
