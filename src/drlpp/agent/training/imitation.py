"""A warm start: the scheduler learns to repeat the best of many slots that were searched for each of many problems.

Slots decide most of a plan's time, and one set of slots is judged in about a millisecond: the best fixed order by the
estimate, cut by the dynamic programme (`stage_cuts`), no walk. So many are drawn per problem, from the policy (without
replacement) and from a flattened one, beside even ones, and the best of them are changed at random (`slot_moves`) for
some rounds. The best that result are what the scheduler is trained to draw, by maximum likelihood. Problems are kept
and learned from many times (the cross-entropy method, over a distribution of problems).

Orders, cuts and recomputation are not imitated: the best of a few variations of them is luck with single ops, and a
policy that repeats luck forgets what the estimate knows (docs/agent.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from drlpp.agent.decisions.device_groups import Choices, Slot, canonical, spell
from drlpp.agent.decisions.masked_choice import Beam, Chooser, Decisions, Repeat, log_prob_and_entropy
from drlpp.agent.decisions.stage_cuts import prefixes, slot_arrays, solve_cuts, stage_memory
from drlpp.agent.networks.partitioner import Partitions, order_values
from drlpp.agent.networks.policy import Policy, to_assignments
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.slot_moves import changed_slots, even_slots
from drlpp.agent.view.features import ProblemView
from drlpp.errors import InputError
from drlpp.plan.assignment import Assignment


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImitationConfig:
    """Settings.

    Attributes:
        draws: slots drawn per problem.
        rounds, changes: rounds of changing the best slots, and new ones in each.
        keep: slots that are learned from.
        scale: a set of slots that is worse by this part weighs e times less.
        temperature: of the flattened policy that half of the draws come from.
        entropy: weight of the entropy of the decisions.
        pool: latest problems that are learned from.
        steps, batch: optimizer steps per iteration, and problems of the pool in each.
        learning_rate: of Adam.

    Raises:
        InputError: a number is below 1 (draws: 2).
    """

    draws: int = 96
    rounds: int = 6
    changes: int = 48
    keep: int = 8
    scale: float = 0.02
    temperature: float = 2.0
    entropy: float = 0.003
    pool: int = 720
    steps: int = 8
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
    """The best slots of a problem: the scheduler's decisions (K rows) and weights ``[K]`` that sum to 1."""

    view: ProblemView
    schedule: Decisions
    weights: Tensor


def anchor_assignments(view: ProblemView, slots: Sequence[tuple[Slot, ...]]) -> list[Assignment]:
    """Assignments of slots as the estimate wants them: the best fixed order, cuts, and recomputation."""
    t = view.tables
    arrays = slot_arrays(slots, t, view.problem)
    order = view.orders[order_values(view, arrays).argmin(axis=1)]
    sums = prefixes(order, arrays, t)
    found = solve_cuts(arrays, sums, t)
    memory = stage_memory(arrays, sums, found.split, found.cuts)
    return to_assignments(view, slots, Partitions(order, found.cuts, (memory[..., 3] > 0.0).astype(np.int64)))


@torch.no_grad()
def draw_elite(
    policy: Policy,
    view: ProblemView,
    rewarder: Rewarder,
    config: ImitationConfig,
    generator: torch.Generator,
    rng: np.random.Generator,
) -> Elite:
    """Searches slots for a problem, and keeps the best."""
    t, encoding, half = view.tables, policy.encoder(view), config.draws // 2
    choices = Choices.of(t)
    value: dict[tuple[Slot, ...], float] = {}
    spelled: dict[tuple[Slot, ...], list[int] | None] = {}

    def judge(slots: Sequence[tuple[Slot, ...]]) -> list[tuple[Slot, ...]]:
        new = list(dict.fromkeys(s for s in (canonical(s, t) for s in slots) if s not in value))
        spelled.update(zip(new, spell(new, t, choices), strict=True))
        new = [s for s in new if spelled[s] is not None]
        if new:
            value.update(zip(new, map(rewarder.value_of, anchor_assignments(view, new)), strict=True))
        return sorted(value, key=lambda s: value[s])

    _, drawn = policy.scheduler.sample(view, encoding, half, Beam(generator, half, False))
    _, flat = policy.scheduler.sample(view, encoding, half, Chooser(generator, 0, config.temperature))
    ranked = judge([*drawn, *flat, *(even_slots(t) if policy.config.scheduler else ())])
    for _ in range(config.rounds if policy.config.scheduler else 0):
        starts = [ranked[int(x)] for x in np.minimum(rng.exponential(4.0, config.changes), len(ranked) - 1)]
        ranked = judge([changed_slots(s, t, rng) for s in starts])

    best = [(value[slots], spelled[slots] or []) for slots in ranked[: config.keep]]
    longest = max(len(x) for _, x in best)
    again = Repeat(torch.tensor([x + [0] * (longest - len(x)) for _, x in best]))
    schedule, _ = policy.scheduler.sample(view, encoding, len(best), again)
    gaps = torch.tensor([v for v, _ in best]).log()
    return Elite(view, schedule, torch.softmax(-gaps / config.scale, dim=0))


def imitation_loss(policy: Policy, elite: Elite, config: ImitationConfig) -> tuple[Tensor, dict[str, float]]:
    """Negative log-likelihood of a problem's best slots, less the entropy bonus; and metrics."""
    logits, _ = policy.scheduler.replay(policy.encoder(elite.view), elite.schedule)
    log_probs, entropies = log_prob_and_entropy(logits, elite.schedule)
    likelihood = (elite.weights * log_probs.sum(dim=1)).sum()
    entropy = entropies.sum() / elite.schedule.valid.sum().clamp(min=1)
    metrics = {"imitation_loss": -float(likelihood.detach()), "imitation_entropy": float(entropy.detach())}
    return -likelihood - config.entropy * entropy, metrics
