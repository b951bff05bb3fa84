"""What a planner draws from the policy: slots without replacement, then variations of the best episodes.

Half of the episodes are different slots, each with its most probable partition. The other half, in two rounds, decides
again where the stages of the best ones begin and which of them recompute: simulated times jump with single ops, which
neither the estimate nor the policy foresees. Every episode is drawn from the policy; no op is moved by anything else.
"""

from __future__ import annotations

import torch

from drlpp.agent.networks.policy import Policy, Rollout
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.view.features import ProblemView
from drlpp.plan.assignment import Assignment

ROUNDS, PARENTS, TEMPERATURE = 2, 4, 4.0
"""Rounds of variations; best episodes that are varied in each; flattening of the policy for them."""


def propose(
    policy: Policy,
    view: ProblemView,
    rewarder: Rewarder,
    episodes: int,
    generator: torch.Generator,
    *,
    greedy_first: bool = False,
) -> list[tuple[float, Assignment]]:
    """Draws and evaluates so many episodes on one problem.

    Returns:
        Objective in seconds (larger by a factor where the plan does not fit) and assignment of each, in the order in
        which they were drawn; with `greedy_first` the first has the most probable choices.
    """
    first = max(1, episodes - ROUNDS * (episodes // (2 * ROUNDS)))
    rollout = policy.sample([view], first, generator, greedy_first=greedy_first, distinct=True)[0]
    drawn = list(_judged(rollout, rewarder))
    while len(drawn) < episodes:
        number = min(episodes - len(drawn), max(1, (episodes - first) // ROUNDS))
        several = [x for x in drawn if len(x[1].devices) > 1] or drawn
        parents = sorted(several, key=lambda x: x[0])[: min(PARENTS, number)]
        for k, (_, _, source, row) in enumerate(parents):
            rows = [row] * len(range(k, number, len(parents)))
            drawn += _judged(policy.vary(source, rows, generator, TEMPERATURE), rewarder)
    return [(value, assignment) for value, assignment, _, _ in drawn]


def _judged(rollout: Rollout, rewarder: Rewarder) -> list[tuple[float, Assignment, Rollout, int]]:
    assignments = rollout.assignments()
    return [(rewarder.value_of(a), a, rollout, i) for i, a in enumerate(assignments)]
