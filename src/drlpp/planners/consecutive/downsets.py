"""Downsets (sets closed under predecessors) of an operator graph: all places where it can be split in two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def all_downsets(predecessors: Sequence[Sequence[int]], limit: int) -> NDArray[np.bool_] | None:
    """Every downset as a row of ``[P, N]``, from the empty to the full one; None if there are more than `limit`."""
    n = len(predecessors)
    need = [sum(1 << p for p in before) for before in predecessors]
    successors: list[list[int]] = [[] for _ in range(n)]
    for i, before in enumerate(predecessors):
        for p in before:
            successors[p].append(i)
    sources = tuple(i for i in range(n) if not need[i])
    ready_of: dict[int, tuple[int, ...]] = {0: sources}
    todo = [0]
    while todo:
        mask = todo.pop()
        ready = ready_of[mask]
        for i in ready:
            bigger = mask | (1 << i)
            if bigger in ready_of:
                continue
            if len(ready_of) >= limit:
                return None
            new = tuple(j for j in successors[i] if need[j] & ~bigger == 0)
            ready_of[bigger] = tuple(j for j in ready if j != i) + new
            todo.append(bigger)
    return masks_to_rows(sorted(ready_of, key=int.bit_count), n)


def with_their_neighbours(predecessors: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """``[N]`` groups of ops: side inputs and side outputs go with the op that they belong to.

    A side input has no predecessor, and its only successor has another one, too; a side output likewise. To keep it
    elsewhere costs a transfer and saves little; each doubles the number of downsets.
    """
    n = len(predecessors)
    before = [set(b) for b in predecessors]
    after: list[set[int]] = [set() for _ in range(n)]
    for i in range(n):
        for p in before[i]:
            after[p].add(i)
    group = np.arange(n, dtype=np.int64)
    todo = list(range(n))
    while todo:
        i = todo.pop()
        for mine, others in ((before, after), (after, before)):
            if mine[i] or len(others[i]) != 1:
                continue
            (j,) = others[i]
            if len(mine[j]) > 1:
                mine[j].discard(i)
                others[i].clear()
                group[group == i] = j
                todo.append(j)
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


def grouped_downsets(predecessors: Sequence[Sequence[int]], limit: int) -> NDArray[np.bool_] | None:
    """`all_downsets` that part no op from its side inputs and outputs, as ``[P, N]``."""
    group = with_their_neighbours(predecessors)
    before: list[set[int]] = [set() for _ in range(int(group.max()) + 1)]
    for i, own in enumerate(predecessors):
        before[group[i]].update(int(group[p]) for p in own if group[p] != group[i])
    masks = all_downsets([sorted(b) for b in before], limit)
    return None if masks is None else np.ascontiguousarray(masks[:, group])


def masks_to_rows(masks: Sequence[int], num: int) -> NDArray[np.bool_]:
    """Bit masks as rows of ``[len(masks), num]``."""
    size = (num + 7) // 8
    packed = np.frombuffer(b"".join(m.to_bytes(size, "little") for m in masks), dtype=np.uint8)
    rows = np.unpackbits(packed.reshape(len(masks), size), axis=1, bitorder="little")[:, :num]
    return rows.astype(np.bool_)
