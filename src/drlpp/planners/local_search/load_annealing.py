"""Simulated annealing of the stages of ops on the exact steady-state loads, with any device in any number of stages.

The devices of the stages stay; a move takes one op to another stage that its neighbours allow. Loads are those of the
evaluator, kept up to date by `drlpp.sim.incremental`; the energy is their p-norm (p = 16), as in `label_search`, which
is faster but takes each device in one stage only. Left out: memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drlpp.plan.assignment import Assignment
from drlpp.planners.local_search.stage_annealing import arc_arrays
from drlpp.problem import PlanningProblem
from drlpp.sim.incremental import REFRESH_AFTER, IncrementalBottleneck, move_op, refresh

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
    state = IncrementalBottleneck(problem, Assignment(start.stage_of_op, start.devices)).state
    arcs = arc_arrays(problem.graph.predecessors, problem.graph.successors)
    labels = _anneal(state, *arcs, start.num_stages, moves, hot, cold, seed)
    return start.with_labels(labels)


@njit(cache=True)
def _energy(state, scale):  # type: ignore[no-untyped-def]
    total = 0.0
    for u in range(len(state.load)):
        total += ((state.load[u] + state.tied_load[u]) / scale) ** POWER
    return total ** (1.0 / POWER)


@njit(cache=True)
def _anneal(  # type: ignore[no-untyped-def]
    state, before_ptr, before, after_ptr, after, num_stages, moves, hot, cold, seed
) -> NDArray[np.int64]:
    np.random.seed(seed)  # numba's own generator, private to compiled code
    num = len(state.labels)
    scale = (state.load + state.tied_load).max()
    best_labels = state.labels.copy()
    if scale == 0.0:
        return best_labels  # type: ignore[no-any-return]
    energy = best = _energy(state, scale)
    cooling = (cold / hot) ** (1.0 / max(1, moves))
    heat = hot
    for _ in range(moves):
        if best == 0.0:
            break
        heat *= cooling
        op = np.random.randint(num)
        low, high = 0, num_stages - 1
        for k in range(before_ptr[op], before_ptr[op + 1]):
            low = max(low, state.labels[before[k]])
        for k in range(after_ptr[op], after_ptr[op + 1]):
            high = min(high, state.labels[after[k]])
        if low == high:
            continue
        old = state.labels[op]
        stage = low + np.random.randint(high - low)
        if stage >= old:
            stage += 1
        move_op(state, op, stage)
        new = _energy(state, scale)
        if new <= energy or np.random.random() < np.exp((energy - new) / (heat * energy)):
            energy = new
            if energy < best * (1 - 1e-9):
                best = energy
                best_labels[:] = state.labels
        else:
            move_op(state, op, old)
        if state.counter[2] >= REFRESH_AFTER:
            refresh(state)
            energy = _energy(state, scale)
    return best_labels  # type: ignore[no-any-return]
