"""Shares of the micro-batches for replicas on unequal devices: in proportion to their speeds at the ops of their stage.

All planners ask here, so that shares follow from the devices of a stage and are no dimension of their own; the local
search may change them afterwards. What a share means is in `drlpp.plan.shares`.

Left out: transfers and memory, which depend on the stages beside. So a plan is tried with equal shares, too.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from drlpp.cost.problem_times import problem_times
from drlpp.cost.stage_costs import stage_seconds
from drlpp.plan.assignment import Assignment
from drlpp.plan.shares import LONGEST_ROUND
from drlpp.problem import PlanningProblem, per_problem

LONGEST_STEADY_ROUND = 32
"""Micro-batches of a round in the steady state, which has no number of its own; more where replicas are more."""
WORTHWHILE = 0.01
"""A longer round is taken if it makes the busiest replica faster by this part."""
_SLOWEST = 1e9
"""A replica that takes this many times as long as the fastest is as good as one that never ends."""


def counts_by_speed(seconds: Sequence[float], num_microbatches: int) -> list[int]:
    """How many of the micro-batches each replica runs, so that the last of them ends as early as it can.

    Args:
        seconds: ``[R]`` of a micro-batch on each replica.
        num_microbatches: of all; at least 1.

    Returns:
        ``[R]``; 0 for a replica that would be the last to end with a single one.
    """
    fastest = min((s for s in seconds if s > 0), default=1.0)
    takes = [min(max(s, fastest / _SLOWEST), fastest * _SLOWEST) for s in seconds]
    pace = sum(1.0 / s for s in takes)
    counts = [int(num_microbatches / (s * pace) * (1 - 1e-12)) for s in takes]
    ends = [((count + 1) * s, r) for r, (count, s) in enumerate(zip(counts, takes, strict=True))]
    heapq.heapify(ends)
    for _ in range(num_microbatches - sum(counts)):
        _, r = ends[0]
        counts[r] += 1
        heapq.heapreplace(ends, ((counts[r] + 1) * takes[r], r))
    return counts


def steady_counts(seconds: Sequence[float]) -> list[int]:
    """Micro-batches of each replica in a short round, all at least 1, that keep the busiest from being much slower than
    any other round would."""
    best: list[int] = []
    least = np.inf
    for size in range(len(seconds), max(LONGEST_STEADY_ROUND, 2 * len(seconds)) + 1):
        counts = [max(1, count) for count in counts_by_speed(seconds, size)]
        busiest = max(count * s for count, s in zip(counts, seconds, strict=True)) / sum(counts)
        if busiest < least * (1 - WORTHWHILE):
            best, least = counts, busiest
    return best


def counts_of_a_round(seconds: Sequence[float], num_microbatches: int, *, steady: bool) -> list[int]:
    """Micro-batches of each replica, in a short round of the steady state or in a step of so many."""
    return steady_counts(seconds) if steady else counts_by_speed(seconds, num_microbatches)


class Busiest(NamedTuple):
    """What makes a stage wait on the replicas that run it.

    Attributes:
        type_index: device type of the replica that takes longest for its micro-batches.
        share: part of the micro-batches that it runs.
        largest_share: part that the replica with the most runs.
    """

    type_index: int
    share: float
    largest_share: float


def ways_to_count(problem: PlanningProblem) -> tuple[bool, ...]:
    """What planners count a stage on unequal devices with, one after the other: equal shares, then shares by speed.

    Both, since one may lead to stages that the other does not: so what may share is not planned worse.
    """
    return (False, True) if problem.may_share else (False,)


def busiest_replica(problem: PlanningProblem, devices: Sequence[int], *, by_speed: bool) -> Busiest:
    """The replica that is the last to end if some devices run all ops as replicas, as `shared` lets them.

    In the steady state equal replicas run equal parts, which need not be whole micro-batches.

    Args:
        by_speed: unequal devices have shares by speed, if the problem lets them; else all run as many micro-batches.
    """
    types = _types(problem)
    found: dict[int, int] = {}
    for d in devices:
        found[types[d]] = found.get(types[d], 0) + 1
    table = _busiest(problem)
    key = by_speed and problem.may_share, tuple(sorted(found.items()))
    if key not in table:
        table[key] = _of_kinds(problem, key[1], key[0])
    return table[key]


def shared(problem: PlanningProblem, assignment: Assignment) -> Assignment:
    """The assignment with shares for every stage that has none and runs on unequal devices; itself if none does.

    A device that is too slow to run even one micro-batch of a step leaves the stage.
    """
    if not problem.may_share:
        return assignment
    types = _types(problem)
    groups = zip(assignment.devices, assignment.settings, strict=True)
    stages = [s for s, (group, given) in enumerate(groups) if not given.shares and len({types[d] for d in group}) > 1]
    if not stages:
        return assignment
    seconds = stage_seconds(problem, assignment)
    devices, settings = list(assignment.devices), list(assignment.settings)
    for s in stages:
        counts = _counts(problem, [float(seconds[types[d], s]) for d in devices[s]])
        devices[s] = tuple(d for d, count in zip(devices[s], counts, strict=True) if count)
        settings[s] = dataclasses.replace(settings[s], shares=tuple(filter(None, counts)))
    return Assignment(assignment.stage_of_op, tuple(devices), tuple(settings))


def ways_to_share(problem: PlanningProblem, assignment: Assignment) -> tuple[Assignment, ...]:
    """The assignment as `shared` has it, and as it is if that is another one."""
    other = shared(problem, assignment)
    return (assignment,) if other is assignment or other.key == assignment.key else (other, assignment)


def round_length(problem: PlanningProblem) -> int:
    """Micro-batches of a step, as far as shares may tell them apart."""
    return min(problem.training.num_microbatches, LONGEST_ROUND)


def _counts(problem: PlanningProblem, seconds: Sequence[float]) -> list[int]:
    return counts_of_a_round(seconds, round_length(problem), steady=problem.objective.of_one_microbatch)


def _of_kinds(problem: PlanningProblem, kinds: Sequence[tuple[int, int]], by_speed: bool) -> Busiest:
    """Of so many replicas of each device type. Where they share equally, the slowest has no fewer than the others."""
    model_s = problem_times(problem).total_s.sum(axis=1)
    types = sorted((t for t, count in kinds for _ in range(count)), key=lambda t: (model_s[t], t))
    replicas, number = len(types), problem.training.num_microbatches
    if len(kinds) > 1 and by_speed:
        counts = _counts(problem, [float(model_s[t]) for t in types])
        last = max(range(replicas), key=lambda r: counts[r] * model_s[types[r]])
        return Busiest(types[last], counts[last] / sum(counts), max(counts) / sum(counts))
    share = 1.0 / replicas if problem.objective.of_one_microbatch else -(-number // replicas) / number
    return Busiest(types[-1], share, share)


@per_problem
def _busiest(problem: PlanningProblem) -> dict[tuple[bool, tuple[tuple[int, int], ...]], Busiest]:
    return {}


@per_problem
def _types(problem: PlanningProblem) -> list[int]:
    found: list[int] = problem.cluster.type_index.tolist()
    return found
