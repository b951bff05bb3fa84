"""Changes of an assignment that keep it legal: ops over a boundary, devices between stages, stages split and merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.problem_times import problem_times
from drlpp.plan.assignment import Assignment
from drlpp.plan.shares import microbatches_of_each
from drlpp.planners.space.shares import round_length, shared
from drlpp.problem import PlanningProblem

Move = Callable[[PlanningProblem, Assignment, np.random.Generator], Assignment | None]
"""A random change; None where it does not apply."""


def shift_boundary(problem: PlanningProblem, start: Assignment, rng: np.random.Generator) -> Assignment | None:
    """Moves some ops from one stage to a neighbour, those next to the boundary first."""
    if start.num_stages < 2:
        return None
    s = int(rng.integers(start.num_stages - 1))
    forward = bool(rng.random() < 0.5)
    origin, target = (s, s + 1) if forward else (s + 1, s)
    labels = start.stage_of_op.copy()
    inside = np.flatnonzero(labels == origin)
    most = max(1, len(inside) // 4)
    wanted = min(len(inside) - 1, int(np.exp(rng.random() * np.log(most + 1))))
    if wanted < 1:
        return None
    around = problem.graph.successors if forward else problem.graph.predecessors
    moved = 0
    for i in (inside[::-1] if forward else inside).tolist():
        if all((labels[j] >= target) if forward else (labels[j] <= target) for j in around[i]):
            if rng.random() < 0.15:
                continue
            labels[i] = target
            moved += 1
            if moved == wanted:
                break
    return dataclasses.replace(start, stage_of_op=labels) if moved else None


def swap_devices(problem: PlanningProblem, start: Assignment, rng: np.random.Generator) -> Assignment | None:
    """Exchanges one device of a stage with one of another stage, or with one that is idle; or two whole stages."""
    total = problem.cluster.num_devices
    if start.num_stages < 2 and len(start.devices[0]) == total:
        return None
    placed = [list(d) for d in start.devices]
    if start.num_stages > 1 and rng.random() < 0.4:
        a, b = (int(x) for x in rng.choice(start.num_stages, 2, replace=False))
        if set(placed[a]) & set(placed[b]):
            return None
        placed[a], placed[b] = placed[b], placed[a]
        return moved_to(problem, start, [tuple(d) for d in placed])
    d, e = int(rng.integers(total)), int(rng.integers(total))
    if d == e:
        return None
    swap = {d: e, e: d}
    return moved_to(problem, start, [tuple(swap.get(x, x) for x in group) for group in placed])


def move_replica(problem: PlanningProblem, start: Assignment, rng: np.random.Generator) -> Assignment | None:
    """Takes a replica from a stage that has several, or an idle device, and gives it to another stage."""
    if not problem.may_replicate:
        return None
    used = {d for group in start.devices for d in group}
    idle = [d for d in range(problem.cluster.num_devices) if d not in used]
    placed = [list(d) for d in start.devices]
    target = int(rng.integers(start.num_stages))
    givers = [s for s in range(start.num_stages) if s != target and len(placed[s]) > 1]
    if idle and (not givers or rng.random() < 0.5):
        device = int(rng.choice(idle))
    elif givers:
        giver = int(rng.choice(givers))
        device = placed[giver].pop(int(rng.integers(len(placed[giver]))))
    else:
        return None
    if device in placed[target]:
        return None
    placed[target].insert(int(rng.integers(len(placed[target]) + 1)), device)
    return moved_to(problem, start, [tuple(d) for d in placed])


def change_replica(problem: PlanningProblem, start: Assignment, rng: np.random.Generator) -> Assignment | None:
    """Adds a device to a stage, takes one away or puts one in the place of another, whatever else the devices run."""
    s = int(rng.integers(start.num_stages))
    group = list(start.devices[s])
    others = [d for d in range(problem.cluster.num_devices) if d not in group]
    change = int(rng.integers(3)) if problem.may_replicate else 2
    if (len(group) == 1) if change == 1 else (not others):
        return None
    at = int(rng.integers(len(group) + (change == 0)))
    group[at : at + (change > 0)] = [] if change == 1 else [int(rng.choice(others))]
    devices = (*start.devices[:s], tuple(group), *start.devices[s + 1 :])
    return moved_to(problem, start, devices)


def split_stage(problem: PlanningProblem, start: Assignment, rng: np.random.Generator) -> Assignment | None:
    """Cuts a stage in two along the order of the ops and gives each a part of the replicas, or one an idle device."""
    used = {d for group in start.devices for d in group}
    idle = [d for d in range(problem.cluster.num_devices) if d not in used]
    sizes = np.bincount(start.stage_of_op, minlength=start.num_stages)
    choices = [s for s in range(start.num_stages) if sizes[s] > 1 and (idle or len(start.devices[s]) > 1)]
    if not choices:
        return None
    s = int(rng.choice(choices))
    group = list(start.devices[s])
    if len(group) > 1:
        keep = int(rng.integers(1, len(group)))
        first, second = tuple(group[:keep]), tuple(group[keep:])
        part = keep / len(group)
    else:
        first, second, part = tuple(group), (int(rng.choice(idle)),), 0.5
    if rng.random() < 0.5:
        first, second, part = second, first, 1.0 - part
    inside = np.flatnonzero(start.stage_of_op == s)
    share = np.cumsum(problem_times(problem).total_s[0, inside] + 1e-12)
    tail = inside[share > share[-1] * part]
    if len(tail) in (0, len(inside)):
        tail = inside[len(inside) // 2 :]
    labels = start.stage_of_op + (start.stage_of_op > s)
    labels[tail] = s + 1
    devices = (*start.devices[:s], first, second, *start.devices[s + 1 :])
    return start.rearranged(labels, devices, _divided(start, s))


def part_stage(problem: PlanningProblem, start: Assignment, rng: np.random.Generator) -> Assignment | None:
    """An op, with what comes before it in its stage or with what comes behind, becomes a stage on some of its devices.

    Half of the time the op is drawn by its parameters: those of few ops may be dear to exchange.
    """
    params = problem.graph.op_trained_bytes
    by_params = params.sum() > 0 and rng.random() < 0.5
    op = int(rng.choice(problem.graph.num_ops, p=params / params.sum() if by_params else None))
    s = int(start.stage_of_op[op])
    forward = bool(rng.random() < 0.5)
    around = problem.graph.successors if forward else problem.graph.predecessors
    part, left = {op}, [op]
    while left:
        for i in around[left.pop()]:
            if start.stage_of_op[i] == s and i not in part:
                part.add(i)
                left.append(i)
    labels = start.stage_of_op.copy()
    if len(part) == int((labels == s).sum()):
        return None
    labels[labels > s] += 1
    taken = np.zeros(len(labels), dtype=np.bool_)
    taken[list(part)] = True
    labels[(start.stage_of_op == s) & (taken == forward)] = s + 1
    group = start.devices[s]
    some = tuple(group[i] for i in np.sort(rng.permutation(len(group))[: int(rng.integers(1, len(group) + 1))]))
    pair = (group, some) if forward else (some, group)
    devices = (*start.devices[:s], *pair, *start.devices[s + 1 :])
    return start.rearranged(labels, devices, _divided(start, s))


def merge_stages(problem: PlanningProblem, start: Assignment, rng: np.random.Generator) -> Assignment | None:
    """Joins two consecutive stages on the devices of both, or of one where stages may not be replicated."""
    if start.num_stages < 2:
        return None
    s = int(rng.integers(start.num_stages - 1))
    both = tuple(dict.fromkeys(start.devices[s] + start.devices[s + 1]))
    devices = (*start.devices[:s], both if problem.may_replicate else start.devices[s], *start.devices[s + 2 :])
    labels = start.stage_of_op - (start.stage_of_op > s)
    return start.rearranged(labels, devices, [t for t in range(start.num_stages) if t != s + 1])


def change_shares(problem: PlanningProblem, start: Assignment, rng: np.random.Generator) -> Assignment | None:
    """Gives some of the micro-batches that a replica of a stage runs to another one; each keeps one at least."""
    start = shared(problem, start)
    unequal = [s for s, settings in enumerate(start.settings) if settings.shares]
    if not problem.may_share or not unequal:
        return None
    s = int(rng.choice(unequal))
    settings = start.settings[s]
    counts = list(microbatches_of_each(settings.shares, len(start.devices[s]), round_length(problem)))
    givers = [r for r, count in enumerate(counts) if count > 1]
    if not givers or not all(counts):
        return None
    giver = int(rng.choice(givers))
    taker = int(rng.choice([r for r in range(len(counts)) if r != giver]))
    passed = int(np.exp(rng.random() * np.log(max(1, counts[giver] // 4) + 0.999)))
    counts[giver] -= passed
    counts[taker] += passed
    return start.with_settings(s, dataclasses.replace(settings, shares=tuple(counts)))


def moved_to(problem: PlanningProblem, start: Assignment, devices: Sequence[tuple[int, ...]]) -> Assignment:
    """The same stages on other devices; shares stay where the replicas are of the same types as before."""
    types = problem.cluster.type_index
    each = zip(start.settings, start.devices, devices, strict=True)
    settings = (given if list(types[list(a)]) == list(types[list(b)]) else given.elsewhere for given, a, b in each)
    return dataclasses.replace(start, devices=tuple(devices), settings=tuple(settings))


def toggle_recompute(problem: PlanningProblem, start: Assignment, rng: np.random.Generator) -> Assignment | None:
    """Switches recomputation of one stage."""
    s = int(rng.integers(start.num_stages))
    return start.with_settings(s, start.settings[s].toggled)


def _divided(start: Assignment, s: int) -> list[int]:
    """Where stages come from after stage s has become two."""
    return [*range(s + 1), *range(s, start.num_stages)]


PLACEMENT_MOVES: tuple[Move, ...] = (swap_devices, move_replica, split_stage, merge_stages)


def free_assignment(problem: PlanningProblem, slot_of_op: NDArray[np.int64], devices: list[int]) -> Assignment:
    """The legal plan of any map from ops to devices: a device's ops form one stage per visit of the data.

    A stage is a pair (number of changes of device on the way to the op, at most; device).
    """
    level = np.zeros(problem.graph.num_ops, dtype=np.int64)
    for i, before in enumerate(problem.graph.predecessors):
        for p in before:
            level[i] = max(level[i], level[p] + (slot_of_op[p] != slot_of_op[i]))
    labels = level * len(devices) + slot_of_op
    return Assignment.compact(labels, {int(x): (devices[int(x) % len(devices)],) for x in np.unique(labels)})
