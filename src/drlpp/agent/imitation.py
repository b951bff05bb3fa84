"""A warm start for the scheduler: it learns to repeat the best of many slots drawn for each of many problems.

Slots decide most of a plan's time, and one set of slots is judged in about a millisecond: the graph's own order, cut by
the dynamic programme (`cuts`), no walk. So many are drawn per problem, from the policy and from a flattened one, the
best are kept with weights, and the policy is trained to draw them by maximum likelihood; problems are kept and
learned from many times (the cross-entropy method, over a distribution of problems).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from drlpp.agent.cuts import prefixes, slot_arrays, solve_cuts, stage_memory
from drlpp.agent.decisions import Chooser, Decisions, log_prob_and_entropy
from drlpp.agent.features import ProblemView
from drlpp.agent.partitioner import Partitions, sum_passes
from drlpp.agent.policy import Policy, to_assignments
from drlpp.agent.rollout import Rewarder
from drlpp.agent.slots import Slot
from drlpp.errors import InputError
from drlpp.plan.assignment import Assignment


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImitationConfig:
    """Settings.

    Attributes:
        draws: slots drawn per problem.
        keep: of these, how many are learned from.
        scale: a set of slots that is worse by this part weighs e times less.
        temperature: of the flattened policy that half of the draws come from.
        entropy: weight of the entropy of the decisions.
        pool: latest problems that are learned from.
        steps, batch: optimizer steps per iteration, and problems of the pool in each.
        learning_rate: of Adam.

    Raises:
        InputError: a number is below 1.
    """

    draws: int = 192
    keep: int = 8
    scale: float = 0.02
    temperature: float = 2.0
    entropy: float = 0.003
    pool: int = 360
    steps: int = 10
    batch: int = 8
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.draws // 2, self.keep, self.pool, self.steps, self.batch) < 1:
            raise InputError(
                f"draws {self.draws}, keep {self.keep}, pool {self.pool}, steps {self.steps}, batch {self.batch}: "
                "must be at least 1 (draws 2)"
            )


@dataclasses.dataclass(frozen=True)
class Elite:
    """The best slots of a problem: their decisions (K rows) and weights ``[K]`` that sum to 1."""

    view: ProblemView
    schedule: Decisions
    weights: Tensor


def anchor_assignments(view: ProblemView, slots: Sequence[tuple[Slot, ...]]) -> list[Assignment]:
    """Assignments of slots with the graph's own order, cut by the dynamic programme; recomputation where it must be."""
    t = view.tables
    order = np.tile(np.arange(t.num_ops), (len(slots), 1))
    arrays = slot_arrays(slots, t, view.problem.cluster)
    sums = prefixes(order, arrays, t)
    cuts, _ = solve_cuts(arrays, sums, t.microbatches, sum_passes(view.problem))
    memory = stage_memory(arrays, sums, t.microbatches, cuts)
    recompute = ((memory[..., 0] > 1.0) & (memory[..., 1] < memory[..., 0])).astype(np.int64)
    return to_assignments(t, slots, Partitions(order, cuts, recompute))


@torch.no_grad()
def draw_elite(
    policy: Policy, view: ProblemView, rewarder: Rewarder, config: ImitationConfig, generator: torch.Generator
) -> Elite:
    """Draws slots for a problem and keeps the best."""
    encoding = policy.encoder(view)
    half = config.draws // 2
    found: dict[tuple[Slot, ...], tuple[float, Decisions]] = {}
    for temperature in (1.0, config.temperature):
        choose = Chooser(generator, False, temperature)
        decisions, slots = policy.scheduler.sample(view, encoding, half, choose)
        distinct = [b for b, s in enumerate(slots) if s not in found and s not in slots[:b]]
        if not distinct:
            continue
        values = [rewarder.value_of(a) for a in anchor_assignments(view, [slots[b] for b in distinct])]
        for b, value in zip(distinct, values, strict=True):
            found[slots[b]] = (value, decisions.select(torch.tensor([b])))
    best = sorted(found.values(), key=lambda x: x[0])[: config.keep]
    gaps = torch.tensor([np.log(value / best[0][0]) for value, _ in best], dtype=torch.float32)
    return Elite(view, _stack([d for _, d in best]), torch.softmax(-gaps / config.scale, dim=0))


def _stack(rows: Sequence[Decisions]) -> Decisions:
    """Rows of different lengths below each other; steps that a row lacks have one legal choice and do not count."""
    longest = max(r.choice.shape[1] for r in rows)
    padded = []
    for r in rows:
        index = torch.arange(longest).clamp(max=r.choice.shape[1] - 1)
        real = torch.arange(longest) < r.choice.shape[1]
        per_step = {k: v if k == "mix" else v[:, index] for k, v in r.context.items()}
        padded.append(
            Decisions(r.features[:, index], r.mask[:, index], r.choice[:, index], r.valid[:, index] & real, per_step)
        )
    return Decisions(
        torch.cat([p.features for p in padded]),
        torch.cat([p.mask for p in padded]),
        torch.cat([p.choice for p in padded]),
        torch.cat([p.valid for p in padded]),
        {k: torch.cat([p.context[k] for p in padded]) for k in padded[0].context},
    )


def imitation_loss(policy: Policy, elite: Elite, config: ImitationConfig) -> tuple[Tensor, dict[str, float]]:
    """Negative log-likelihood of a problem's best slots, less the entropy bonus; and metrics."""
    logits, _ = policy.scheduler.replay(policy.encoder(elite.view), elite.schedule)
    log_probs, entropies = log_prob_and_entropy(logits, elite.schedule)
    likelihood = (elite.weights * log_probs.sum(dim=1)).sum()
    entropy = entropies.sum() / elite.schedule.valid.sum().clamp(min=1)
    metrics = {"imitation_loss": -float(likelihood.detach()), "imitation_entropy": float(entropy.detach())}
    return -likelihood - config.entropy * entropy, metrics
