"""The policy: encoder, scheduler and partitioner together. It turns a problem into assignments.

An episode is one assignment: slots first, then the walk, the cuts and the recomputation. Everything emitted is legal
by construction of the masks; nothing is repaired afterwards.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from drlpp.agent.decisions.device_groups import Slot, slot_devices
from drlpp.agent.decisions.masked_choice import Beam, Chooser, Decisions, GoOn, log_prob_and_entropy
from drlpp.agent.networks.encoder import Encoding, GraphEncoder
from drlpp.agent.networks.partitioner import Partitions, RecurrentPartitioner, estimate
from drlpp.agent.networks.scheduler import PipelineScheduler
from drlpp.agent.view.features import ProblemView
from drlpp.errors import InputError
from drlpp.plan.assignment import Assignment
from drlpp.planners.space.shares import shared

PARTS = ("schedule", "order", "walk", "cut", "recompute")
"""Names of the kinds of decisions, in the order of the columns of log-probabilities."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sieve:
    """Which slots are kept, where a planner draws more than it evaluates.

    Attributes:
        candidates: slots drawn for each that is kept.
        by_estimate: part of the slots that are kept for their estimate alone.
    """

    candidates: int = 8
    by_estimate: float = 0.25


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Shape of the networks.

    Attributes:
        width: size of embeddings and recurrent states.
        num_layers: rounds of message passing; 0 leaves the graph out of the encoder.
        recurrent: the partitioner carries what it passed.
        scheduler: the scheduler decides; without, stage i has device i.

    Raises:
        InputError: a value is out of range.
    """

    width: int = 64
    num_layers: int = 3
    recurrent: bool = True
    scheduler: bool = True

    def __post_init__(self) -> None:
        if self.width < 1 or self.num_layers < 0:
            raise InputError(f"width {self.width} and num_layers {self.num_layers}: must be at least 1 and 0")


@dataclasses.dataclass(frozen=True)
class Rollout:
    """B episodes on one problem.

    Attributes:
        decisions: by the names in `PARTS`.
        log_probs: ``[B, T]`` of all decisions under the weights that made them, parts side by side.
        slots, partitions: what was decided.
        encoding: of the view, under the weights that drew them.
        repeats: so many consecutive episodes share their slots.
    """

    view: ProblemView
    encoding: Encoding
    decisions: dict[str, Decisions]
    log_probs: Tensor
    slots: list[tuple[Slot, ...]]
    partitions: Partitions
    repeats: int = 1

    @property
    def num_episodes(self) -> int:
        return self.log_probs.shape[0]

    @property
    def part_sizes(self) -> list[int]:
        """Columns of `log_probs` by part."""
        return [self.decisions[name].choice.shape[1] for name in PARTS]

    def assignments(self) -> list[Assignment]:
        """The assignment of each episode."""
        return to_assignments(self.view, self.slots, self.partitions)


def to_assignments(view: ProblemView, slots: Sequence[tuple[Slot, ...]], p: Partitions) -> list[Assignment]:
    """The assignments that slots and partitions of B episodes stand for; shares follow from the devices."""
    out = []
    for b, episode in enumerate(slots):
        labels = np.empty(p.order.shape[1], dtype=np.int64)
        for s in range(len(episode)):
            labels[p.order[b, p.cuts[b, s] : p.cuts[b, s + 1]]] = s
        settings = p.settings(b, len(episode))
        out.append(shared(view.problem, Assignment(labels, slot_devices(episode, view.tables), settings)))
    return out


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Recorded episodes under the present weights: ``[B, T]`` log-probabilities and entropies."""

    log_probs: Tensor
    entropies: Tensor


class Policy(nn.Module):
    """The three parts of the agent."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = GraphEncoder(config.width, config.num_layers)
        self.scheduler = PipelineScheduler(config.width, config.scheduler)
        self.partitioner = RecurrentPartitioner(config.width, config.recurrent)

    @torch.no_grad()
    def sample(
        self,
        views: Sequence[ProblemView],
        num_episodes: int,
        generator: torch.Generator,
        *,
        repeats: int = 1,
        greedy_first: bool = False,
        sieve: Sieve | None = None,
    ) -> list[Rollout]:
        """Draws episodes on every problem.

        Args:
            num_episodes: per problem; rounded up to a multiple of `repeats`.
            repeats: partitions that are drawn for the same slots.
            greedy_first: episode 0 of each problem takes the most probable choices.
            sieve: draw more slots than episodes without replacement, keep those of the best estimate and of each
                kind, and give each the most probable partition; if there are fewer slots than episodes, the other
                episodes are further partitions of them. What a planner wants; PPO needs independent
                episodes (None).
        """
        return [self._sample(view, num_episodes, repeats, greedy_first, sieve, generator) for view in views]

    def _sample(
        self,
        view: ProblemView,
        num_episodes: int,
        repeats: int,
        greedy_first: bool,
        sieve: Sieve | None,
        generator: torch.Generator,
    ) -> Rollout:
        encoding = self.encoder(view)
        if sieve is not None:
            wide = sieve.candidates * num_episodes
            schedule, slots = self.scheduler.sample(view, encoding, wide, Beam(generator, wide, greedy_first))
            kept = kept_by_estimate(view, slots, num_episodes, sieve, greedy_first)
            schedule, slots = schedule.select(kept), [slots[i] for i in kept.tolist()]
            rows = torch.arange(num_episodes) % len(slots)
            choose = Chooser(generator, len(slots))
        else:
            choose = Chooser(generator, int(greedy_first))
            schedule, slots = self.scheduler.sample(view, encoding, -(-num_episodes // repeats), choose)
            rows = torch.arange(len(slots)).repeat_interleave(repeats)
        schedule, slots = schedule.select(rows), [slots[i] for i in rows.tolist()]
        logits, scheduled = self.scheduler.replay(encoding, schedule)
        parts, partitions = self.partitioner.sample(view, encoding, slots, scheduled, choose)
        decisions = {"schedule": schedule, **parts}
        log_probs = self._log_probs(encoding, decisions, logits, scheduled)
        return Rollout(view, encoding, decisions, log_probs, slots, partitions, repeats)

    @torch.no_grad()
    def vary(self, rollout: Rollout, rows: Sequence[int], generator: torch.Generator, temperature: float) -> Rollout:
        """Draws episodes that differ from given ones in where stages begin, and in which of them recompute.

        Args:
            rows: episodes of `rollout`, one for each new episode; may repeat. The new one keeps its slots and its
                order, and its cuts are the anchors of the new cuts.
            temperature: as `decisions.Chooser` takes it.
        """
        view, encoding = rollout.view, rollout.encoding
        picked = torch.tensor(rows)
        given = {name: d.select(picked) for name, d in rollout.decisions.items()}
        slots = [rollout.slots[i] for i in rows]
        parents = rollout.partitions.select(picked.numpy())
        logits, scheduled = self.scheduler.replay(encoding, given["schedule"])
        choose = Chooser(generator, temperature=temperature)
        parts, partitions = self.partitioner.vary(view, encoding, slots, scheduled, given, parents, choose)
        decisions = {"schedule": given["schedule"], **parts}
        log_probs = self._log_probs(encoding, decisions, logits, scheduled)
        return Rollout(view, encoding, decisions, log_probs, slots, partitions)

    @torch.no_grad()
    def go_on(self, rollout: Rollout, rows: Sequence[int], generator: torch.Generator) -> Rollout:
        """Draws episodes that have the first slots of given ones; the others, and the partition, are decided again.

        Args:
            rows: as `vary` takes them; partitions are the most probable.
        """
        view, encoding = rollout.view, rollout.encoding
        given = rollout.decisions["schedule"].select(torch.tensor(rows)).choice
        steps = torch.arange(1, given.shape[1] + 1)
        length = torch.where(given != 0, steps, 0).amax(dim=1)
        kept = (torch.rand(len(rows), generator=generator) * length).long()
        choose = GoOn(given, kept, Chooser(generator))
        schedule, slots = self.scheduler.sample(view, encoding, len(rows), choose)
        logits, scheduled = self.scheduler.replay(encoding, schedule)
        parts, partitions = self.partitioner.sample(
            view, encoding, slots, scheduled, Chooser(generator, greedy=len(rows))
        )
        decisions = {"schedule": schedule, **parts}
        log_probs = self._log_probs(encoding, decisions, logits, scheduled)
        return Rollout(view, encoding, decisions, log_probs, slots, partitions)

    def _log_probs(
        self, encoding: Encoding, decisions: dict[str, Decisions], logits: Tensor, scheduled: Tensor
    ) -> Tensor:
        """``[B, T]`` of all decisions, parts side by side, given the scheduler's logits and final state."""
        all_logits = {"schedule": logits, **self.partitioner.replay(encoding, decisions, scheduled)}
        return torch.cat([log_prob_and_entropy(all_logits[p], decisions[p])[0] for p in PARTS], dim=1)

    def evaluate(self, view: ProblemView, decisions: dict[str, Decisions]) -> Evaluated:
        """Log-probabilities and entropies of recorded decisions, with gradients."""
        encoding = self.encoder(view)
        logits, scheduled = self.scheduler.replay(encoding, decisions["schedule"])
        all_logits = {"schedule": logits, **self.partitioner.replay(encoding, decisions, scheduled)}
        pairs = [log_prob_and_entropy(all_logits[p], decisions[p]) for p in PARTS]
        return Evaluated(torch.cat([p[0] for p in pairs], dim=1), torch.cat([p[1] for p in pairs], dim=1))


def kept_by_estimate(
    view: ProblemView, slots: list[tuple[Slot, ...]], number: int, sieve: Sieve, greedy_first: bool
) -> Tensor:
    """Rows of so many slots; a greedy one stays in front.

    A part of them are those with the best estimates. The estimate has a correlated error for groups with equal
    replica counts. So the rest is filled round-robin over the multisets of replica counts, best estimate first.
    """
    value = estimate(view, slots)
    if greedy_first:
        value[0] = 0.0
    ranked = np.argsort(value, kind="stable")
    best, rest = np.split(ranked, [int(sieve.by_estimate * number)])
    seen: Counter[tuple[int, ...]] = Counter()
    turn = []
    for i in rest.tolist():
        kind = tuple(sorted(slot.replicas for slot in slots[i]))
        turn.append(seen[kind])
        seen[kind] += 1
    return torch.from_numpy(np.concatenate([best, rest[np.argsort(turn, kind="stable")]])[:number])
