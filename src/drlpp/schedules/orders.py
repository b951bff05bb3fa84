"""Orders of actions as flat arrays. They are made by src/native/schedules: `waves` (1F1B, GPipe, ZB-H1), `looped`
(interleaved schedules and ZB-V) and `list_scheduler`."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.plan import Action, Schedule
from drlpp.plan.action import Kind

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
