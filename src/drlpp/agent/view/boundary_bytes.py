"""What enters and what leaves a stretch of an order of the ops: bytes of the tensors, each counted once.

A tensor that skips a stage is neither; it goes from the stage that makes it to those that read it.
"""

from __future__ import annotations

import numba
import numpy as np

from drlpp.agent.view.device_classes import Floats, Ints, Tables


def crossings(orders: Ints, t: Tables) -> tuple[Floats, Floats]:
    """Bytes by stretch, for U orders.

    Args:
        orders: ``[U, n]``.

    Returns:
        Two arrays ``[U, n + 1, n + 1]``; for the ops at positions i to j - 1, index ``[u, i, j]``: bytes that they read
        and that are made before i, and bytes that they make and that are read at j or later.
    """
    num, n = orders.shape
    into, out = np.zeros((num, n + 1, n + 1)), np.zeros((num, n + 1, n + 1))
    for u, order in enumerate(orders):
        position = np.empty(n, dtype=np.int64)
        position[order] = np.arange(n)
        _cross(position, t.tensor_ptr, t.tensor_ops, t.tensor_bytes, into[u], out[u])
    return into, out


@numba.njit(cache=True)
def _cross(position, tensor_ptr, tensor_ops, tensor_bytes, into, out):  # type: ignore[no-untyped-def]
    n = len(position)
    for q in range(len(tensor_bytes)):
        places = np.sort(position[tensor_ops[tensor_ptr[q] : tensor_ptr[q + 1]]])
        made = places[0]
        # a stretch that begins at i reads it if its end is past the first reader from i on
        for k in range(1, len(places)):
            for i in range(places[k - 1] + 1, places[k] + 1):
                into[i, places[k] + 1] += tensor_bytes[q]
        # a stretch that ends at j sends it on if it begins at `made` or before
        for j in range(made + 1, places[-1] + 1):
            out[made, j] += tensor_bytes[q]
    for i in range(n + 1):
        for j in range(1, n + 1):
            into[i, j] += into[i, j - 1]
    for i in range(n - 1, -1, -1):
        for j in range(n + 1):
            out[i, j] += out[i + 1, j]
