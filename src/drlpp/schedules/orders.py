"""Orders of actions as flat arrays, and wave schedules: orders that follow from one number per action.

In a wave schedule every row (a stage and a kind of action) has an offset and a stride, and the action on micro-batch m
has the key ``offset + stride * m``. Each device runs its actions by ascending key. If the key rises strictly along
every dependency, the orders of all devices agree with one total order of all actions, so the schedule cannot deadlock,
whatever the DAG of stages and the placement.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from drlpp.plan import Action, Schedule
from drlpp.plan.action import Kind
from drlpp.schedules.placed import PlacedStages

FORWARD, BACKWARD, INPUT_GRAD, WEIGHT_GRAD = 0, 1, 2, 3
KINDS: tuple[Kind, ...] = ("F", "B", "I", "W")


class FlatSchedule(NamedTuple):
    """Actions of U devices, one device after the other.

    Attributes:
        offset: ``[U + 1]``.
        stage, kind, microbatch: ``[N]``; kind is an index into `KINDS`.
    """

    offset: NDArray[np.int64]
    stage: NDArray[np.int32]
    kind: NDArray[np.int8]
    microbatch: NDArray[np.int32]


def to_schedule(flat: FlatSchedule, used: NDArray[np.int64]) -> Schedule:
    """The schedule of a plan; ``used[u]`` is the rank of row u."""
    out: Schedule = {}
    for u, rank in enumerate(used.tolist()):
        part = slice(int(flat.offset[u]), int(flat.offset[u + 1]))
        columns = (flat.stage[part].tolist(), flat.kind[part].tolist(), flat.microbatch[part].tolist())
        out[rank] = tuple(Action(s, KINDS[k], m) for s, k, m in zip(*columns, strict=True))
    return out


def from_schedule(schedule: Schedule, used: NDArray[np.int64]) -> FlatSchedule:
    """The inverse of `to_schedule`."""
    rows = [schedule.get(rank, ()) for rank in used.tolist()]
    actions = [a for row in rows for a in row]
    return FlatSchedule(
        offset=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        stage=np.array([a.stage for a in actions], dtype=np.int32),
        kind=np.array([KINDS.index(a.kind) for a in actions], dtype=np.int8),
        microbatch=np.array([a.microbatch for a in actions], dtype=np.int32),
    )


def wave_schedule(
    placed: PlacedStages,
    stage: NDArray[np.int64],
    kind: NDArray[np.int64],
    offset: NDArray[np.int64],
    stride: NDArray[np.int64],
) -> FlatSchedule:
    """The wave schedule of rows ``[rows]``; of actions with equal keys the one in the earlier row comes first."""
    arrays = _wave(
        placed.slot_off, placed.slot_device, len(placed.used), placed.num_microbatches, stage, kind, offset, stride
    )
    return FlatSchedule(*arrays)


@numba.njit(cache=True)
def _wave(slot_off, slot_device, num_devices, num_microbatches, row_stage, row_kind, row_offset, row_stride):  # type: ignore[no-untyped-def]
    """Counting sort by key, then distribution to the devices."""
    num_rows, m_last = len(row_stage), num_microbatches - 1
    low = row_offset.min()
    high = low
    for r in range(num_rows):
        high = max(high, row_offset[r] + row_stride[r] * m_last)
    start = np.zeros(high - low + 2, dtype=np.int64)
    offset = np.zeros(num_devices + 1, dtype=np.int64)
    for r in range(num_rows):
        s = row_stage[r]
        first = slot_off[s]
        replicas = slot_off[s + 1] - first
        for m in range(num_microbatches):
            start[row_offset[r] + row_stride[r] * m - low + 1] += 1
        for i in range(replicas):
            offset[slot_device[first + i] + 1] += (num_microbatches - i + replicas - 1) // replicas
    for k in range(1, len(start)):
        start[k] += start[k - 1]
    for d in range(num_devices):
        offset[d + 1] += offset[d]
    total = num_rows * num_microbatches
    sorted_row = np.empty(total, dtype=np.int32)
    sorted_m = np.empty(total, dtype=np.int32)
    for r in range(num_rows):
        for m in range(num_microbatches):
            k = row_offset[r] + row_stride[r] * m - low
            sorted_row[start[k]] = r
            sorted_m[start[k]] = m
            start[k] += 1
    fill = offset[:-1].copy()
    stage = np.empty(total, dtype=np.int32)
    kind = np.empty(total, dtype=np.int8)
    microbatch = np.empty(total, dtype=np.int32)
    for i in range(total):
        r, m = sorted_row[i], sorted_m[i]
        s = row_stage[r]
        d = slot_device[slot_off[s] + m % (slot_off[s + 1] - slot_off[s])]
        stage[fill[d]] = s
        kind[fill[d]] = row_kind[r]
        microbatch[fill[d]] = m
        fill[d] += 1
    return offset, stage, kind, microbatch
