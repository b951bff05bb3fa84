"""What a planner draws from the policy: slots without replacement, then variations of the best episodes.

Half of the episodes are different slots, each with its most probable partition. The other half, in two rounds, decides
again where the stages of the best ones begin and which of them recompute: simulated times jump with single ops, which
neither the estimate nor the policy foresees. Every episode is drawn from the policy; no op is moved by anything else.
"""

from __future__ import annotations

import dataclasses

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
        parents: best episodes that are varied in each.
        temperature: flattening of the policy for them.
        sieve: which slots are kept of those that are drawn.
    """

    rounds: int = 2
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
        several = [x for x in drawn if len(x[1].devices) > 1] or drawn
        parents = sorted(several, key=lambda x: x[0])[: min(params.parents, number)]
        for k, (_, _, source, row) in enumerate(parents):
            rows = [row] * len(range(k, number, len(parents)))
            drawn += _judged(policy.vary(source, rows, generator, params.temperature), rewarder)
    return [(value, assignment) for value, assignment, _, _ in drawn]


def _judged(rollout: Rollout, rewarder: Rewarder) -> list[tuple[float, Assignment, Rollout, int]]:
    assignments = rollout.assignments()
    return [(rewarder.value_of(a), a, rollout, i) for i, a in enumerate(assignments)]
