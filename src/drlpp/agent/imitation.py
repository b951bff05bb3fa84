"""A warm start: the policy learns to repeat the best of many plans that were searched for each of many problems.

Slots decide most of a plan's time, and one set of slots is judged in about a millisecond: the best fixed order by the
estimate, cut by the dynamic programme (`cuts`), no walk. So many are drawn per problem, from the policy (without
replacement) and from a flattened one, and the best of them are changed at random (`slot_moves`) for some rounds. The
best slots then get the policy's most probable partition and variations of it (as a planner draws, see `proposals`). The
best episodes that result, all decisions of them, are what the policy is trained to draw, by maximum likelihood.
Problems are kept and learned from many times (the cross-entropy method, over a distribution of problems).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from drlpp.agent.cuts import prefixes, slot_arrays, solve_cuts, stage_memory
from drlpp.agent.decisions import Beam, Chooser, Decisions, Repeat
from drlpp.agent.features import ProblemView
from drlpp.agent.partitioner import Partitions, order_values
from drlpp.agent.policy import Policy, to_assignments
from drlpp.agent.proposals import TEMPERATURE
from drlpp.agent.rollout import Rewarder
from drlpp.agent.slot_moves import changed_slots
from drlpp.agent.slots import Choices, Slot, canonical, spell
from drlpp.errors import InputError
from drlpp.plan.assignment import Assignment


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImitationConfig:
    """Settings.

    Attributes:
        draws: slots drawn per problem.
        rounds, changes: rounds of changing the best slots, and new ones in each.
        keep: episodes that are learned from, with different slots.
        repeats: partitions drawn for each of these slots: the most probable one, and variations.
        scale: a set of slots that is worse by this part weighs e times less.
        temperature: of the flattened policy that half of the draws come from.
        entropy: weight of the entropy of the decisions.
        pool: latest problems that are learned from.
        steps, batch: optimizer steps per iteration, and problems of the pool in each.
        learning_rate: of Adam.

    Raises:
        InputError: a number is below 1 (draws and repeats: 2).
    """

    draws: int = 96
    rounds: int = 3
    changes: int = 48
    keep: int = 8
    repeats: int = 4
    scale: float = 0.02
    temperature: float = 2.0
    entropy: float = 0.003
    pool: int = 720
    steps: int = 10
    batch: int = 8
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.draws // 2, self.keep, self.repeats // 2, self.pool, self.steps, self.batch) < 1:
            raise InputError(
                f"draws {self.draws}, keep {self.keep}, repeats {self.repeats}, pool {self.pool}, steps {self.steps}, "
                f"batch {self.batch}: must be at least 1 (draws and repeats 2)"
            )


@dataclasses.dataclass(frozen=True)
class Elite:
    """The best episodes of a problem: their decisions (K rows) and weights ``[K]`` that sum to 1."""

    view: ProblemView
    decisions: dict[str, Decisions]
    weights: Tensor


def anchor_assignments(view: ProblemView, slots: Sequence[tuple[Slot, ...]]) -> list[Assignment]:
    """Assignments of slots as the estimate wants them: the best fixed order, cuts, and recomputation."""
    t = view.tables
    arrays = slot_arrays(slots, t, view.problem)
    order = view.orders[order_values(view, arrays).argmin(axis=1)]
    sums = prefixes(order, arrays, t)
    cuts = solve_cuts(arrays, sums, t).cuts
    recompute = (stage_memory(arrays, sums, t.microbatches, cuts)[..., 3] > 0.0).astype(np.int64)
    return to_assignments(t, slots, Partitions(order, cuts, recompute))


@torch.no_grad()
def draw_elite(
    policy: Policy,
    view: ProblemView,
    rewarder: Rewarder,
    config: ImitationConfig,
    generator: torch.Generator,
    rng: np.random.Generator,
) -> Elite:
    """Searches slots for a problem, and keeps the best episodes with them."""
    t, encoding, half = view.tables, policy.encoder(view), config.draws // 2
    choices = Choices.of(t)
    value: dict[tuple[Slot, ...], float] = {}

    def judge(slots: Sequence[tuple[Slot, ...]]) -> list[tuple[Slot, ...]]:
        new = list(dict.fromkeys(s for s in (canonical(s, t) for s in slots) if s not in value))
        if new:
            value.update(zip(new, map(rewarder.value_of, anchor_assignments(view, new)), strict=True))
        return sorted(value, key=lambda s: value[s])

    _, drawn = policy.scheduler.sample(view, encoding, half, Beam(generator, half, False))
    _, flat = policy.scheduler.sample(view, encoding, half, Chooser(generator, 0, config.temperature))
    ranked = judge([*drawn, *flat])
    for _ in range(config.rounds if policy.config.scheduler else 0):
        starts = [ranked[int(x)] for x in np.minimum(rng.exponential(4.0, config.changes), len(ranked) - 1)]
        ranked = judge([changed_slots(s, t, rng) for s in starts])

    spelled = [x for x in spell(ranked[: 2 * config.keep], t, choices) if x is not None][: config.keep]
    longest = max(len(x) for x in spelled)
    again = Repeat(torch.tensor([x + [0] * (longest - len(x)) for x in spelled]))
    schedule, best = policy.scheduler.sample(view, encoding, len(spelled), again)
    _, scheduled = policy.scheduler.replay(encoding, schedule)
    parts, first = policy.partitioner.sample(view, encoding, best, scheduled, Chooser(generator, len(best)))
    rows = torch.arange(len(best)).repeat(config.repeats - 1)
    slots, given = [best[i] for i in rows.tolist()], {name: d.select(rows) for name, d in parts.items()}
    other, varied = policy.partitioner.vary(
        view, encoding, slots, scheduled[rows], given, first.select(rows.numpy()), Chooser(generator, 0, TEMPERATURE)
    )
    made = to_assignments(t, best, first) + to_assignments(t, slots, varied)
    values = np.array([rewarder.value_of(a) for a in made])
    table = values.reshape(config.repeats, len(best))
    picked = torch.from_numpy(table.argmin(axis=0)) * len(best) + torch.arange(len(best))
    gaps = torch.from_numpy(np.log(table.min(axis=0) / values.min())).float()
    decisions = {name: d.join(other[name]).select(picked) for name, d in parts.items()}
    return Elite(view, {"schedule": schedule, **decisions}, torch.softmax(-gaps / config.scale, dim=0))


def imitation_loss(policy: Policy, elite: Elite, config: ImitationConfig) -> tuple[Tensor, dict[str, float]]:
    """Negative log-likelihood of a problem's best episodes, less the entropy bonus of the slots; and metrics."""
    now = policy.evaluate(elite.view, elite.decisions)
    likelihood = (elite.weights * now.log_probs.sum(dim=1)).sum()
    schedule = elite.decisions["schedule"]
    steps = schedule.choice.shape[1]
    entropy = now.entropies[:, :steps].sum() / schedule.valid.sum().clamp(min=1)
    slots = (elite.weights * now.log_probs[:, :steps].sum(dim=1)).sum()
    metrics = {
        "imitation_loss": -float(likelihood.detach()),
        "imitation_loss_schedule": -float(slots.detach()),
        "imitation_entropy": float(entropy.detach()),
    }
    return -likelihood - config.entropy * entropy, metrics
