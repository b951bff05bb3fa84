"""Rows of different lengths as two flat arrays: where each row begins (and the last one ends), and all rows in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def offsets(sizes: Sequence[int] | Ints) -> Ints:
    """``[n + 1]`` where each of n parts begins, and the last one ends."""
    out = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(np.asarray(sizes, dtype=np.int64), out=out[1:])
    return out


def offset_rows(rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Offsets, and all rows one after the other."""
    return offsets([len(row) for row in rows]), np.array([x for row in rows for x in row], dtype=np.int64)


def grouped(row: Ints, item: Ints, num_rows: int) -> tuple[Ints, Ints]:
    """The items of each row in the order in which they are given: offsets, and all items.

    Args:
        row, item: ``[num_pairs]`` an item and the row that it belongs to.
    """
    return offsets(np.bincount(row, minlength=num_rows)), item[np.argsort(row, kind="stable")]


def numbered(keys: Ints) -> tuple[Ints, Ints]:
    """Numbers of keys by first appearance.

    Args:
        keys: ``[n]``.

    Returns:
        ``[num_distinct]`` where each distinct key appears first; ``[n]`` the number of each key.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return first[order].astype(np.int64), number[inverse]
