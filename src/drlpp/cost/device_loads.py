"""The steady-state load of each device: seconds per micro-batch that it computes, sends and receives.

With R replicas a stage loads each of them with 1/R of its time, or with its share of it. A message loads its sender
once per receiving device and each receiver once, with latency + bytes / bandwidth of the path; gradients likewise.
Which devices meet depends on the micro-batch, so transfers are averaged over a period of the replicas involved.
All-reduces are spread over the micro-batches of a step. Messages that carry their own time (dnn-partitioning, NeurIPS
2020) load their sender once, however many devices receive them.

Left out: ports that devices of a host share, bubbles, and the optimizer step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.placed_stages import PlacedStages
from drlpp.native import library

LONGEST_PERIOD: int = library.LONGEST_PERIOD
"""Transfers are averaged over at most this many micro-batches."""


def device_loads(placed: PlacedStages) -> NDArray[np.float64]:
    """``[U]`` seconds per micro-batch of each used device."""
    return library.device_loads(placed)
