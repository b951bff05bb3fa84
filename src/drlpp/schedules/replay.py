"""Replays the orders of all devices: the iteration time and the peak memory of a schedule, fast.

The semantics are those of `sim.simulator` (written down in `sim/__init__.py`), number for number; this one is compiled
(src/native/schedules/replay.h), keeps no trace and works on flat arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.placed_stages import PlacedStages
from drlpp.errors import ScheduleError
from drlpp.native import library
from drlpp.schedules.orders import FlatSchedule


class Replay(NamedTuple):
    """Result of a replay: seconds of the iteration, and ``[U]`` peak bytes of the used devices."""

    iteration_time_s: float
    peak_memory_bytes: NDArray[np.float64]


def replay(placed: PlacedStages, flat: FlatSchedule) -> Replay:
    """Replays a schedule. Raises ScheduleError if it deadlocks."""
    run = library.replay(placed, flat)
    if run["num_done"] < len(flat.stage):
        raise ScheduleError(
            f"the schedule deadlocks after {run['num_done']} of {len(flat.stage)} actions: each rank waits for an "
            "action that is listed too late"
        )
    return Replay(run["iteration_time_s"], run["peak_memory_bytes"])
