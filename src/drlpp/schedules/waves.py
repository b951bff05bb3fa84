"""Longest paths through the stages, from which the wave schedules follow (compiled: src/native/schedules/waves.h)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.placed_stages import PlacedStages
from drlpp.native import library


class Depths(NamedTuple):
    """Longest paths, counted in devices (a stage of R replicas counts R).

    Attributes:
        from_source: ``[S]`` devices before the stage.
        to_sink: ``[L]`` devices from the stage of a slot, itself included, to the end. A replica with an unequal share
            counts as often as micro-batches of its stage go by while it has one.
    """

    from_source: NDArray[np.int64]
    to_sink: NDArray[np.int64]


def depths(placed: PlacedStages) -> Depths:
    """The depths of placed stages."""
    return Depths(**library.stage_depths(placed))
