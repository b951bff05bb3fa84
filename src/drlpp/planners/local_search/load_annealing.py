"""Simulated annealing of the stages of ops on the exact steady-state loads, with any device in any number of stages.

The devices of the stages stay; a move takes one op to another stage that its neighbours allow. Loads are those of the
evaluator, kept up to date by `drlpp.cost.incremental_loads`. The energy is their p-norm (p = 16), as in
`stage_annealing`, which is faster but takes each device in one stage only. Left out: memory.
"""

from __future__ import annotations

import dataclasses

from drlpp.cost.incremental_loads import IncrementalBottleneck
from drlpp.cost.problem_arrays import problem_arrays
from drlpp.native import library
from drlpp.plan.assignment import Assignment
from drlpp.plan.settings import StageSettings
from drlpp.planners.local_search.stage_annealing import Cooling
from drlpp.problem import PlanningProblem

POWER = 16.0


def anneal_exactly(
    problem: PlanningProblem, start: Assignment, *, moves: int, hot: float, cold: float, seed: int
) -> Assignment:
    """The best assignment of a run; recomputation is dropped.

    Args:
        start: where it begins.
        moves: single ops that are tried.
        hot, cold: first and last temperature, relative to the energy.
        seed: of the moves.

    Raises:
        InputError: the graph has a tensor with several producers.
    """
    if start.num_stages < 2:
        return start
    plain = dataclasses.replace(start, settings=tuple(StageSettings(shares=s.shares) for s in start.settings))
    state = IncrementalBottleneck(problem, plain).state
    labels = library.anneal_loads(state, problem_arrays(problem).ops, Cooling(moves, hot, cold, seed))
    return start.with_labels(labels)
