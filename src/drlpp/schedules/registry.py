"""All schedules by name, and which of them apply."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.placed_stages import PlacedStages
from drlpp.errors import ScheduleError
from drlpp.native import library
from drlpp.schedules.orders import FlatSchedule
from drlpp.schedules.selection import SPLITS_BACKWARD


@dataclasses.dataclass(frozen=True, slots=True)
class ScheduleKind:
    """A way to make schedules.

    Attributes:
        summary: one line for people.
        splits_backward: backward passes are run as I and W.
    """

    summary: str
    splits_backward: bool


_SUMMARIES = {
    "1f1b": "one forward, one backward (PipeDream-Flush)",
    "eager-1f1b": "1F1B with more micro-batches in flight",
    "gpipe": "all forward passes, then all backward passes",
    "interleaved-1f1b": "several stages per device, looped (Megatron-LM)",
    "zero-bubble": "1F1B with split backward passes (ZB-H1)",
    "interleaved-zero-bubble": "interleaved 1F1B with split backward passes",
    "zbv": "two stages per device in the shape of a V, split backward passes",
    "list": "the best of list scheduling (the most urgent action that is ready) and the named schedules",
    "split-list": "the same with split backward passes",
}
SCHEDULES: Mapping[str, ScheduleKind] = {
    name: ScheduleKind(summary, splits)
    for (name, summary), splits in zip(_SUMMARIES.items(), SPLITS_BACKWARD, strict=True)
}
"""All schedules, in the order of `ScheduleKind` in src/native/schedules/selection.h."""


def schedules_for(placed: PlacedStages) -> tuple[str, ...]:
    """Names of the schedules that apply to these stages and devices."""
    return tuple(name for name, flag in zip(SCHEDULES, library.applicable(placed), strict=True) if flag)


def schedule_flags(names: Sequence[str] | None) -> NDArray[np.bool_]:
    """One flag per schedule, whether it is named; None means all. Raises ScheduleError if a name is not known."""
    if names is None:
        return np.ones(len(SCHEDULES), dtype=np.bool_)
    flags = np.zeros(len(SCHEDULES), dtype=np.bool_)
    order = list(SCHEDULES)
    for name in names:
        if name not in SCHEDULES:
            raise ScheduleError(f"schedule {name!r} is not known: use one of {', '.join(SCHEDULES)}")
        flags[order.index(name)] = True
    return flags


def generate(name: str, placed: PlacedStages) -> FlatSchedule:
    """Makes the schedule of a name.

    Raises:
        ScheduleError: the name is not known, or the schedule does not apply.
    """
    kind = int(schedule_flags((name,)).argmax())
    if name not in schedules_for(placed):
        raise ScheduleError(
            f"schedule {name!r} does not apply to this placement: use one of {', '.join(schedules_for(placed))}"
        )
    return FlatSchedule(**library.make_order(placed, kind))
