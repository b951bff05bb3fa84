"""Vertices of a weighted hypergraph that no light cut separates.

If every cut between two vertices weighs more than a threshold, and no solution may cut more than that, the two are on
the same side in every solution. Such vertices are found with maximum-adjacency orders (each vertex next is the one
that most weight joins to those before): the weight that joins a vertex to all before it is the smallest cut between it
and its predecessor among these vertices, and with the others the cut can only weigh more. Sources: Nagamochi and
Ibaraki, "Computing Edge-Connectivity in Multigraphs and Capacitated Graphs" (SIAM J. Discrete Math. 1992); Klimmek and
Wagner, "A Simple Hypergraph Min Cut Algorithm" (1996).

Left out: vertices with little weight of their own are set aside, and cuts that would pass through them count as
lighter than they are. So some vertices that belong together may stay apart, never the other way round.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_Ints = NDArray[np.int64]


@njit(cache=True)
def inseparable(num: int, pointer: _Ints, pins: _Ints, weight: NDArray[np.float64], threshold: float) -> _Ints:
    """``[num]`` a label per vertex; vertices of equal label are separated only by cuts above the threshold.

    Args:
        num: vertices.
        pointer, pins: ``[E + 1]``, ``[sum]`` vertices of each hyperedge; they may repeat.
        weight: ``[E]`` what a cut through a hyperedge weighs, however many parts it falls into.
        threshold: cuts up to this weight may separate.
    """
    parent = np.arange(num)
    for e in range(len(weight)):
        if weight[e] > threshold:
            for k in range(pointer[e] + 1, pointer[e + 1]):
                parent[_root(parent, pins[k])] = _root(parent, pins[pointer[e]])
    aside = np.zeros(num, dtype=np.bool_)
    key, degree = np.empty(num), np.empty(num)
    chosen, reached = np.empty(num, dtype=np.bool_), np.empty(len(weight), dtype=np.bool_)
    stamp = np.full(num, -1, dtype=np.int64)
    touch_ptr, touch = _transposed(num, pointer, pins)
    members_ptr, members = np.zeros(num + 1, dtype=np.int64), np.empty(num, dtype=np.int64)
    changed = True
    while changed:
        changed = False
        root = np.array([_root(parent, i) for i in range(num)])
        _list_members(root, members_ptr, members)
        key[:], degree[:] = 0.0, 0.0
        for e in range(len(weight)):  # weight of the hyperedges that join each vertex to another one
            first, joins = -1, False
            for k in range(pointer[e], pointer[e + 1]):
                r = root[pins[k]]
                if aside[r]:
                    continue
                if first < 0:
                    first = r
                joins = joins or r != first
            if joins:
                for k in range(pointer[e], pointer[e + 1]):
                    r = root[pins[k]]
                    if stamp[r] != e:
                        stamp[r] = e
                        degree[r] += weight[e]
        stamp[:] = -1
        for r in range(num):
            if root[r] == r and not aside[r] and degree[r] <= threshold:
                aside[r] = changed = True
            chosen[r] = root[r] != r or aside[r]
        if changed:
            continue
        reached[:] = False
        previous = -1
        while True:
            best = -1
            for r in range(num):
                if not chosen[r] and (best < 0 or key[r] > key[best]):
                    best = r
            if best < 0:
                break
            chosen[best] = True
            if previous >= 0 and key[best] > threshold:
                parent[_root(parent, best)] = _root(parent, previous)
                changed = True
            previous = best
            for m in range(members_ptr[best], members_ptr[best + 1]):
                for t in range(touch_ptr[members[m]], touch_ptr[members[m] + 1]):
                    e = touch[t]
                    if reached[e]:
                        continue
                    reached[e] = True
                    for k in range(pointer[e], pointer[e + 1]):
                        r = root[pins[k]]
                        if not chosen[r] and stamp[r] != e:
                            stamp[r] = e
                            key[r] += weight[e]
        stamp[:] = -1
    return np.array([_root(parent, i) for i in range(num)])


@njit(cache=True)
def _root(parent: _Ints, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True)
def _transposed(num: int, pointer: _Ints, pins: _Ints) -> tuple[_Ints, _Ints]:
    """The hyperedges of each vertex."""
    starts = np.zeros(num + 1, dtype=np.int64)
    for p in pins:
        starts[p + 1] += 1
    starts = np.cumsum(starts)
    out, end = np.empty(len(pins), dtype=np.int64), starts.copy()
    for e in range(len(pointer) - 1):
        for k in range(pointer[e], pointer[e + 1]):
            out[end[pins[k]]] = e
            end[pins[k]] += 1
    return starts, out


@njit(cache=True)
def _list_members(root: _Ints, starts: _Ints, out: _Ints) -> None:
    """The vertices with each root."""
    starts[:] = 0
    for r in root:
        starts[r + 1] += 1
    starts[:] = np.cumsum(starts)
    end = starts.copy()
    for i in range(len(root)):
        out[end[root[i]]] = i
        end[root[i]] += 1
