"""Orders of actions as flat arrays, and wave schedules: orders that follow from one number per action.

In a wave schedule every row (a stage and a kind of action) has an offset and a stride, and the action on micro-batch m
has the key ``offset + stride * m``. Each device runs its actions by ascending key. If the key rises strictly along
every dependency, the orders of all devices agree with one total order of all actions, so the schedule cannot deadlock,
whatever the DAG of stages and the placement.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.plan import Action, Schedule
from drlpp.plan.action import Kind
from drlpp.schedules.arena import filled, kernel, take

FORWARD, BACKWARD, INPUT_GRAD, WEIGHT_GRAD = 0, 1, 2, 3
KINDS: tuple[Kind, ...] = ("F", "B", "I", "W")
_new_action = functools.partial(tuple.__new__, Action)
"""`Action._make` without its Python code: plans for a thousand devices have a hundred thousand actions."""


class FlatSchedule(NamedTuple):
    """Actions of U devices, one device after the other.

    Attributes:
        offset: ``[U + 1]``.
        stage, kind, microbatch: ``[N]``; kind is an index into `KINDS`.
    """

    offset: NDArray[np.int64]
    stage: NDArray[np.int32]
    kind: NDArray[np.int32]
    microbatch: NDArray[np.int32]


def to_schedule(flat: FlatSchedule, used: NDArray[np.int64]) -> Schedule:
    """The schedule of a plan; ``used[u]`` is the rank of row u."""
    out: Schedule = {}
    for u, rank in enumerate(used.tolist()):
        part = slice(int(flat.offset[u]), int(flat.offset[u + 1]))
        kinds = [KINDS[k] for k in flat.kind[part].tolist()]
        columns = zip(flat.stage[part].tolist(), kinds, flat.microbatch[part].tolist(), strict=True)
        out[rank] = tuple(map(_new_action, columns))
    return out


def from_schedule(schedule: Schedule, used: NDArray[np.int64]) -> FlatSchedule:
    """The inverse of `to_schedule`."""
    rows = [schedule.get(rank, ()) for rank in used.tolist()]
    actions = [a for row in rows for a in row]
    return FlatSchedule(
        offset=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        stage=np.array([a.stage for a in actions], dtype=np.int32),
        kind=np.array([KINDS.index(a.kind) for a in actions], dtype=np.int32),
        microbatch=np.array([a.microbatch for a in actions], dtype=np.int32),
    )


@kernel
def empty_orders(arena, p, kinds):  # type: ignore[no-untyped-def]
    """A `FlatSchedule` to be filled, in which every micro-batch has `kinds` actions per stage, and where to begin."""
    num_stages, num_mb = len(p.slot_off) - 1, p.num_microbatches
    offset = filled(arena.ints, len(p.used) + 1, 0)[0]
    for s in range(num_stages):
        first = p.slot_off[s]
        replicas = p.slot_off[s + 1] - first
        for i in range(replicas):
            offset[p.slot_device[first + i] + 1] += (num_mb - i + replicas - 1) // replicas * kinds
    fill = take(arena.ints, len(p.used))[0]
    for d in range(len(p.used)):
        offset[d + 1] += offset[d]
        fill[d] = offset[d]
    total = num_stages * num_mb * kinds
    flat = FlatSchedule(offset, take(arena.words, total)[0], take(arena.words, total)[0], take(arena.words, total)[0])
    return flat, fill


@kernel
def wave(arena, p, row_kind, row_offset, row_stride):  # type: ignore[no-untyped-def]
    """The wave schedule of rows (row r belongs to stage r mod S); of equal keys that of the earlier row comes first.

    A counting sort by key, then distribution to the devices.
    """
    num_rows, num_mb, num_stages = len(row_kind), p.num_microbatches, len(p.slot_off) - 1
    flat, fill = empty_orders(arena, p, num_rows // num_stages)
    low, high = row_offset[0], row_offset[0]
    for r in range(num_rows):
        low = min(low, row_offset[r])
        high = max(high, row_offset[r] + row_stride[r] * (num_mb - 1))
    start = filled(arena.ints, high - low + 2, 0)[0]
    for r in range(num_rows):
        for m in range(num_mb):
            start[row_offset[r] + row_stride[r] * m - low + 1] += 1
    for k in range(1, len(start)):
        start[k] += start[k - 1]
    row = take(arena.words, num_rows * num_mb)[0]
    microbatch = take(arena.words, num_rows * num_mb)[0]
    for r in range(num_rows):
        for m in range(num_mb):
            k = row_offset[r] + row_stride[r] * m - low
            row[start[k]] = r
            microbatch[start[k]] = m
            start[k] += 1
    for i in range(num_rows * num_mb):
        r, m = row[i], microbatch[i]
        s = r
        while s >= num_stages:  # faster than the remainder
            s -= num_stages
        first = p.slot_off[s]
        replicas = p.slot_off[s + 1] - first
        d = p.slot_device[first if replicas == 1 else first + m % replicas]
        at = fill[d]
        fill[d] = at + 1
        flat.stage[at], flat.kind[at], flat.microbatch[at] = s, row_kind[r], m
    return flat
