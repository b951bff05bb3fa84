"""Sets of stages as rows of `words` 64-bit numbers, one after the other, and the order of their lists; compiled."""

from __future__ import annotations

import numpy as np

from drlpp.schedules.arena import kernel


@kernel
def same_bits(bits, words, i, j):  # type: ignore[no-untyped-def]
    """Whether rows i and j are equal."""
    for w in range(words):  # noqa: SIM110  (compiled: a generator is slower)
        if bits[i * words + w] != bits[j * words + w]:
            return False
    return True


@kernel
def lists_before(bits, words, i, j):  # type: ignore[no-untyped-def]
    """Whether the sorted list of set i comes before that of set j: (1,) < (1, 2) < (2,)."""
    for w in range(words):
        difference = bits[i * words + w] ^ bits[j * words + w]
        if difference:
            lowest = difference & (~difference + np.uint64(1))
            in_i = bits[i * words + w] & lowest != np.uint64(0)
            other = j if in_i else i  # the set without the lowest element in which they differ
            more = bits[other * words + w] > lowest
            for x in range(w + 1, words):
                more = more or bits[other * words + x] != np.uint64(0)
            return in_i == more
    return False


@kernel
def merge_sort(order, spare, first, bits, words, last):  # type: ignore[no-untyped-def]
    """Sorts the indices in `order` in place and stably by (first, list of the set, last); `spare` is as long."""
    n = len(order)
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            i, middle = low, min(low + width, n)
            j, high = middle, min(low + 2 * width, n)
            for k in range(low, high):
                if j >= high or (i < middle and not _before(first, bits, words, last, order[j], order[i])):
                    spare[k] = order[i]
                    i += 1
                else:
                    spare[k] = order[j]
                    j += 1
        for k in range(n):
            order[k] = spare[k]
        width *= 2


@kernel
def _before(first, bits, words, last, i, j):  # type: ignore[no-untyped-def]
    if first[i] != first[j]:
        return first[i] < first[j]
    if same_bits(bits, words, i, j):
        return last[i] < last[j]
    return lists_before(bits, words, i, j)
