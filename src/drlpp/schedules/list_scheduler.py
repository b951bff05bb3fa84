"""One run of the list scheduler (compiled: src/native/schedules/list_scheduler.h describes it)."""

from __future__ import annotations

import math
from typing import NamedTuple

from drlpp.cost.placed_stages import PlacedStages
from drlpp.native import library
from drlpp.schedules.orders import FlatSchedule

SLACKS: tuple[float, ...] = library.SLACKS
"""Values of `slack` that are tried, until one changes nothing."""


class ListRun(NamedTuple):
    """What a run gave.

    Attributes:
        last_s: when the last action ends; infinity if the run was given up.
        limited: whether the slack ever held a micro-batch back; if not, more slack changes nothing.
        order: the schedule.
    """

    last_s: float
    limited: bool
    order: FlatSchedule


def list_order(placed: PlacedStages, slack: float, *, split: bool, give_up_s: float = math.inf) -> ListRun:
    """Makes a list schedule.

    Args:
        slack: how many times the micro-batches of 1F1B may be in flight.
        split: whether backward passes are split.
        give_up_s: the run is of no use if it does not end before.
    """
    last_s, limited, order = library.list_order(placed, slack, split, give_up_s)
    return ListRun(last_s, limited, FlatSchedule(**order))
