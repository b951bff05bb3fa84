"""Sets of stages as rows of 64-bit words, and the order of their sorted lists; compiled."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def same_bits(bits, i, j):  # type: ignore[no-untyped-def]
    """Whether rows i and j of ``[n, words]`` are equal."""
    for w in range(bits.shape[1]):  # noqa: SIM110  (compiled: a generator is slower)
        if bits[i, w] != bits[j, w]:
            return False
    return True


@numba.njit(cache=True)
def lists_before(bits, i, j):  # type: ignore[no-untyped-def]
    """Whether the sorted list of set i comes before that of set j: (1,) < (1, 2) < (2,)."""
    for w in range(bits.shape[1]):
        difference = bits[i, w] ^ bits[j, w]
        if difference:
            lowest = difference & (~difference + np.uint64(1))
            in_i = bits[i, w] & lowest != np.uint64(0)
            other = j if in_i else i  # the set without the lowest element in which they differ
            more = bits[other, w] > lowest
            for x in range(w + 1, bits.shape[1]):
                more = more or bits[other, x] != np.uint64(0)
            return in_i == more
    return False


@numba.njit(cache=True)
def merge_sort(order, first, bits, last):  # type: ignore[no-untyped-def]
    """Sorts the indices in `order` in place and stably by (first, list of the set, last)."""
    n = len(order)
    spare = np.empty_like(order)
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            i, middle = low, min(low + width, n)
            j, high = middle, min(low + 2 * width, n)
            for k in range(low, high):
                if j >= high or (i < middle and not _before(first, bits, last, order[j], order[i])):
                    spare[k] = order[i]
                    i += 1
                else:
                    spare[k] = order[j]
                    j += 1
        order[:] = spare
        width *= 2


@numba.njit(cache=True)
def _before(first, bits, last, i, j):  # type: ignore[no-untyped-def]
    if first[i] != first[j]:
        return first[i] < first[j]
    if same_bits(bits, i, j):
        return last[i] < last[j]
    return lists_before(bits, i, j)
