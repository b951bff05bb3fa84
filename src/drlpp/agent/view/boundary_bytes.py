"""What enters and what leaves a stretch of an order of the ops: bytes of the tensors, each counted once.

A tensor that skips a stage is neither; it goes from the stage that makes it to those that read it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from drlpp.agent.view.device_classes import Floats, Ints, Tables
from drlpp.native import library


class BoundaryBytes(NamedTuple):
    """Bytes by stretch, for U orders: of the ops at positions i to j - 1, at ``[u, i, j]``.

    Attributes:
        into: ``[U, n + 1, n + 1]`` bytes that they read and that are made before i.
        out: ``[U, n + 1, n + 1]`` bytes that they make and that are read at j or later.
    """

    into: Floats
    out: Floats


def crossings(orders: Ints, t: Tables) -> BoundaryBytes:
    """The bytes of all stretches of some orders.

    Args:
        orders: ``[U, n]``.

    Raises:
        ValueError: orders of other ops.
    """
    return BoundaryBytes(**library.boundary_bytes(t, np.ascontiguousarray(orders)))
