"""Which schedule is best for placed stages; compiled (src/native/schedules/selection.h tells how it is found)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.placed_stages import PlacedStages
from drlpp.native import library

SPLIT_BACKWARD_COST: float = library.SPLIT_BACKWARD_COST
"""A schedule with split backward passes has to save this part of the iteration to be chosen over one without.

On the CPU, I + W take about that much longer than B for a typical stage, which the simulator leaves out
(docs/benchmarks.md)."""
SPLITS_BACKWARD: tuple[bool, ...] = library.SPLITS_BACKWARD
"""Whether each schedule, in the order of `registry.SCHEDULES`, runs backward passes as I and W."""


class Selected(NamedTuple):
    """The best schedule.

    Attributes:
        kind: index into `registry.SCHEDULES`; -1 if none of the wanted ones applies.
        time_s: seconds of the iteration.
        over_bytes: the worst excess over the memory of a device; 0 if it fits.
    """

    kind: int
    time_s: float
    over_bytes: float


class WorkBound(NamedTuple):
    """What an iteration takes at least, whatever the order.

    Attributes:
        time_s: seconds of the iteration.
        work_s, after_s: ``[U]`` seconds that each device computes, and that at least pass when it has done so.
    """

    time_s: float
    work_s: NDArray[np.float64]
    after_s: NDArray[np.float64]


def select(placed: PlacedStages, wanted: NDArray[np.bool_], give_up_s: float = math.inf) -> Selected:
    """Chooses among the wanted schedules that apply.

    Args:
        wanted: one flag per schedule.
        give_up_s: if the first schedule fits and takes longer than this, no other is tried.
    """
    return Selected(**library.select_schedule(placed, wanted, give_up_s))


def work_bound(placed: PlacedStages, *, split: bool) -> WorkBound:
    """The bound of the work. Args: split: whether backward passes are split."""
    return WorkBound(**library.work_bound(placed, split))
