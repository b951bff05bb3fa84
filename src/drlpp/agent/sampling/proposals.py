"""What a planner draws from the policy: slots without replacement, then variations of the best episodes.

Half of the episodes are different slots, each with its most probable partition. The other half is drawn in two rounds.
In each, half keep the first slots of one of the best and decide the other slots again: the sieve, which errs alike on
slots that are alike, has no say there. The others decide again where the stages of the best ones begin, and which of
them recompute: simulated times jump with single ops, which neither the estimate nor the policy foresees. Every episode
is drawn from the policy; no op is moved by anything else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from drlpp.agent.networks.policy import Policy, Rollout, Sieve
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.view.features import ProblemView
from drlpp.plan.assignment import Assignment


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProposalParams:
    """Settings of a batch of draws.

    Attributes:
        rounds: of variations.
        slots: part of a round that decides slots again.
        parents: best episodes that are varied, of slots and of partitions each.
        temperature: flattening of the policy for partitions.
        sieve: which slots are kept of those that are drawn.
    """

    rounds: int = 2
    slots: float = 0.5
    parents: int = 4
    temperature: float = 4.0
    sieve: Sieve = dataclasses.field(default_factory=Sieve)


DEFAULTS = ProposalParams()


def propose(
    policy: Policy,
    view: ProblemView,
    rewarder: Rewarder,
    episodes: int,
    generator: torch.Generator,
    *,
    greedy_first: bool = False,
    params: ProposalParams = DEFAULTS,
) -> list[tuple[float, Assignment]]:
    """Draws and evaluates so many episodes on one problem.

    Returns:
        Objective in seconds (larger by a factor where the plan does not fit) and assignment of each, in the order in
        which they were drawn; with `greedy_first` the first has the most probable choices.
    """
    first = max(1, episodes - params.rounds * (episodes // (2 * params.rounds)))
    rollout = policy.sample([view], first, generator, greedy_first=greedy_first, sieve=params.sieve)[0]
    drawn = list(_judged(rollout, rewarder))
    while len(drawn) < episodes:
        number = min(episodes - len(drawn), max(1, (episodes - first) // params.rounds))
        of_slots = int(params.slots * number)
        for source, rows in _parents(drawn, of_slots, params.parents):
            drawn += _judged(policy.go_on(source, rows, generator), rewarder)
        several = [x for x in drawn if len(x[1].devices) > 1] or drawn
        for source, rows in _parents(several, number - of_slots, params.parents):
            drawn += _judged(policy.vary(source, rows, generator, params.temperature), rewarder)
    return [(value, assignment) for value, assignment, _, _ in drawn]


_Drawn = tuple[float, Assignment, Rollout, int]


def _parents(drawn: Sequence[_Drawn], number: int, most: int) -> list[tuple[Rollout, list[int]]]:
    """The best episodes, at most so many, with their rows: so many rows in all."""
    best = sorted(drawn, key=lambda x: x[0])[: min(most, number)]
    return [(source, [row] * len(range(k, number, len(best)))) for k, (_, _, source, row) in enumerate(best)]


def _judged(rollout: Rollout, rewarder: Rewarder) -> list[_Drawn]:
    assignments = rollout.assignments()
    return [(rewarder.value_of(a), a, rollout, i) for i, a in enumerate(assignments)]
