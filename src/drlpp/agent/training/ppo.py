"""Proximal policy optimisation (Schulman et al., 2017) of all three parts of the policy together.

An episode ends with one reward, so there is nothing to bootstrap, and the baselines are the other episodes on the same
problem (self-critical, no value network):

- Several partitions are drawn for the same slots. Slots are rewarded by the best of them, and by how much they raise
  the expected best of `best_of` draws: a planner keeps the best sample, so a policy that is sometimes excellent beats
  one that is always fair ("max@k"; Walder & Karkhanis, 2025, "Pass@K Policy Optimization").
- A partition is compared with the mean of those for the same slots: the small differences that it decides are not
  drowned in the large ones between slots.

Guards against a policy whose samples are all alike: the scale that advantages are divided by has a floor, and a
penalty keeps the policy near the one it started from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from drlpp.agent.networks.policy import PARTS, Policy, Rollout
from drlpp.errors import InputError

_OUTLIER = 0.2
"""Differences between partitions of the same slots count at most this much (infeasible ones are far away)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PpoConfig:
    """Settings of the update.

    Attributes:
        learning_rate: of Adam.
        clip: largest change of a probability ratio that is rewarded.
        epochs: passes over each batch of episodes.
        minibatches: parts that the episodes of a problem are split into, one optimizer step each.
        entropy: weight of the entropy, by part.
        best_of: k of the expected best of k slots; 1 rewards the mean.
        kl: weight of the divergence from the reference policy, if there is one.
        slot_floor, partition_floor: least scale of reward differences that advantages are divided by.
        advantage_limit: advantages are clipped to this on both sides.
        max_grad_norm: gradients are scaled down to this norm.

    Raises:
        InputError: a value is out of range.
    """

    learning_rate: float = 1e-3
    clip: float = 0.2
    epochs: int = 3
    minibatches: int = 2
    entropy: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(PARTS, 0.003) | {"schedule": 0.01, "order": 0.01, "walk": 0.002}
    )
    best_of: int = 4
    kl: float = 0.01
    slot_floor: float = 0.02
    partition_floor: float = 0.005
    advantage_limit: float = 3.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1:
            raise InputError(f"epochs {self.epochs} and minibatches {self.minibatches}: must be at least 1")
        if self.best_of < 1:
            raise InputError(f"best_of is {self.best_of}: it must be at least 1")
        if not (self.learning_rate > 0 and 0 < self.clip < 1 and min(self.slot_floor, self.partition_floor) > 0):
            raise InputError(
                f"learning_rate {self.learning_rate}, clip {self.clip}, floors {self.slot_floor} and "
                f"{self.partition_floor}: must be positive, and clip below 1"
            )
        if set(self.entropy) != set(PARTS):
            raise InputError(f"entropy weights for {sorted(self.entropy)}: give one for each of {', '.join(PARTS)}")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Episodes on one problem with their rewards ``[B]``, and log-probabilities under the reference policy if any."""

    rollout: Rollout
    rewards: Tensor
    reference_log_probs: Tensor | None = None


def advantages(rewards: Tensor, repeats: int, config: PpoConfig) -> tuple[Tensor, Tensor]:
    """Advantages ``[B]`` of the scheduler's and of the partitioner's decisions.

    Args:
        rewards: ``[B]``, `repeats` consecutive ones for the same slots.
    """
    groups = rewards.reshape(-1, repeats)
    raised = expected_raise(groups.amax(dim=1), config.best_of)
    slot = _scaled(raised - raised.mean(), config.slot_floor, config.advantage_limit).repeat_interleave(repeats)
    if repeats == 1:
        return slot, slot
    apart = torch.clamp(groups - groups.mean(dim=1, keepdim=True), -_OUTLIER, _OUTLIER)
    return slot, _scaled(apart.flatten(), config.partition_floor, config.advantage_limit)


def expected_raise(rewards: Tensor, k: int) -> Tensor:
    """``[G]`` expected amount by which each reward raises the best of k - 1 others: ``E max(0, r_i - max of others)``.

    The expectation is over all subsets of the others, exactly. For k = 1 it is the reward itself.
    """
    k = min(k, len(rewards))
    if k == 1:
        return rewards
    order = torch.argsort(rewards)
    ranked = rewards[order].double()
    n = len(rewards)
    # probability that the best of k - 1 out of n - 1 others is the j-th smallest of them
    weight = torch.tensor([math.comb(j, k - 2) / math.comb(n - 1, k - 1) for j in range(n - 1)], dtype=torch.float64)
    out = torch.empty(n, dtype=torch.float64)
    for i in range(n):  # others below i keep their rank; those above cannot be exceeded
        out[order[i]] = ((ranked[i] - ranked[:i]) * weight[:i]).sum()
    return out.to(rewards.dtype)


def _scaled(x: Tensor, floor: float, limit: float) -> Tensor:
    return torch.clamp(x / torch.clamp(x.square().mean().sqrt(), min=floor), -limit, limit)


def clipped_objective(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped surrogate, elementwise (to be maximised): ``min(r A, clip(r, 1 - c, 1 + c) A)``."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


class Ppo:
    """Updates a policy from batches of episodes.

    Args:
        policy: is changed in place.
        config: settings.
    """

    def __init__(self, policy: Policy, config: PpoConfig) -> None:
        self.policy = policy
        self.config = config
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, eps=1e-5)

    def update(self, batches: Sequence[Batch], generator: torch.Generator) -> dict[str, float]:
        """Makes ``epochs x minibatches`` optimizer steps; each takes one part of every problem's episodes.

        Returns:
            Means over the steps of ``policy_loss, entropy, kl, clip_fraction, grad_norm`` and
            ``entropy_<part>``; see docs/agent.md.
        """
        config = self.config
        scaled = [advantages(b.rewards, b.rollout.repeats, config) for b in batches]
        totals: dict[str, float] = {}
        steps = 0
        for _ in range(config.epochs):
            splits = [
                torch.randperm(b.rollout.num_episodes, generator=generator).chunk(config.minibatches) for b in batches
            ]
            for k in range(max(len(s) for s in splits)):
                self.optimizer.zero_grad()
                for batch, advantage, split in zip(batches, scaled, splits, strict=True):
                    if k < len(split):
                        loss, metrics = self._loss(batch, advantage, split[k])
                        if loss.requires_grad:  # in a problem without a choice nothing is learned
                            (loss / len(batches)).backward()
                        for key, value in metrics.items():
                            totals[key] = totals.get(key, 0.0) + value / len(batches)
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm)
                totals["grad_norm"] = totals.get("grad_norm", 0.0) + float(norm)
                self.optimizer.step()
                steps += 1
        return {key: value / steps for key, value in totals.items()}

    def _loss(self, batch: Batch, advantage: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        config, rollout = self.config, batch.rollout
        decisions = {name: d.select(rows) for name, d in rollout.decisions.items()}
        now = self.policy.evaluate(rollout.view, decisions)
        log_ratio = now.log_probs - rollout.log_probs[rows]
        valid = torch.cat([decisions[name].valid for name in PARTS], dim=1)
        sizes = rollout.part_sizes
        loss = torch.zeros(())
        metrics: dict[str, float] = {}
        entropy_sum = 0.0
        for name, ratio, entropy, ok in zip(
            PARTS, log_ratio.split(sizes, 1), now.entropies.split(sizes, 1), valid.split(sizes, 1), strict=True
        ):
            count = ok.sum()
            if count == 0:
                continue
            a = advantage[0 if name == "schedule" else 1][rows].unsqueeze(1)
            gain = (clipped_objective(ratio, a, config.clip) * ok).sum() / count
            mean_entropy = (entropy * ok).sum() / count
            loss = loss - gain - config.entropy[name] * mean_entropy
            metrics[f"entropy_{name}"] = float(mean_entropy.detach())
            entropy_sum += float((entropy * ok).sum(1).mean().detach())
        metrics["policy_loss"] = float(loss.detach())
        if batch.reference_log_probs is not None:
            away = (batch.reference_log_probs[rows] - now.log_probs) * valid
            loss = loss + config.kl * (torch.expm1(away.clamp(max=10.0)) - away).sum() / valid.sum().clamp(min=1)
        with torch.no_grad():
            count = valid.sum().clamp(min=1)
            metrics["kl"] = float(((log_ratio.exp() - 1.0 - log_ratio) * valid).sum() / count)
            metrics["clip_fraction"] = float((((log_ratio.exp() - 1.0).abs() > config.clip) & valid).sum() / count)
        metrics["entropy"] = entropy_sum
        return loss, metrics
