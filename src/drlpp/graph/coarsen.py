"""Coarsening: ops into fewer groups, such that every legal partition of the groups is one of the ops.

Two rules, applied until few enough groups are left, smallest weight first:
1. an op joins its only predecessor or its only successor (so no cycle can appear);
2. where that is not enough, neighbours in a topological order are merged, which is always safe.
Weights decide what is small, so heavy ops stay alone. The map back is the returned array: ``labels[group_of_op]``.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import InputError
from drlpp.graph.op_graph import OpGraph
from drlpp.graph.topology import topological_order


def coarsen(graph: OpGraph, max_groups: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Groups the ops of a graph.

    Args:
        max_groups: at most this many groups remain.
        weights: ``[num_ops]`` non-negative, for example seconds; light ops are merged first.

    Returns:
        ``[num_ops]`` group of each op, numbered in a topological order of the (acyclic) quotient.

    Raises:
        InputError: `max_groups` is below 1, or `weights` has the wrong length.
    """
    if max_groups < 1:
        raise InputError(f"max_groups is {max_groups}: it must be at least 1")
    if len(weights) != graph.num_ops:
        raise InputError(f"{len(weights)} weights for {graph.num_ops} ops: give one per op")
    parent = list(range(graph.num_ops))
    before = [set(p) for p in graph.predecessors]
    after = [set(s) for s in graph.successors]
    weight = weights.astype(float).tolist()
    alive = graph.num_ops

    heap = [(weight[i], i) for i in range(graph.num_ops)]
    heapq.heapify(heap)
    while alive > max_groups and heap:
        w, i = heapq.heappop(heap)
        if parent[i] != i or w != weight[i]:
            continue
        partner = _safe_partner(i, before, after, weight)
        if partner is None:
            continue
        _merge(i, partner, parent, before, after)
        weight[partner] += w
        heapq.heappush(heap, (weight[partner], partner))
        alive -= 1

    roots = [i for i in range(graph.num_ops) if parent[i] == i]
    position = {r: k for k, r in enumerate(roots)}
    order = topological_order(len(roots), [(position[a], position[b]) for a in roots for b in after[a]])
    number = {roots[k]: n for n, k in enumerate(order)}
    group = np.array([number[_root(i, parent)] for i in range(graph.num_ops)], dtype=np.int64)
    if alive > max_groups:
        in_order = [weight[roots[k]] for k in order]
        group = _merge_in_order(np.array(in_order), max_groups)[group]
    return group


def _safe_partner(i: int, before: list[set[int]], after: list[set[int]], weight: list[float]) -> int | None:
    """The lightest neighbour that `i` can join without a cycle.

    i can join its predecessor p if p is its only one, and its successor s if s is its only one: any other path from p
    to i would have to enter i through another predecessor.
    """
    choices = []
    if len(before[i]) == 1:
        choices.append(next(iter(before[i])))
    if len(after[i]) == 1:
        choices.append(next(iter(after[i])))
    return min(choices, key=lambda j: (weight[j], j), default=None)


def _merge(i: int, into: int, parent: list[int], before: list[set[int]], after: list[set[int]]) -> None:
    parent[i] = into
    for a in before[i]:
        after[a].discard(i)
        if a != into:
            after[a].add(into)
            before[into].add(a)
    for b in after[i]:
        before[b].discard(i)
        if b != into:
            before[b].add(into)
            after[into].add(b)


def _root(i: int, parent: list[int]) -> int:
    while parent[i] != i:
        i = parent[i]
    return i


def _merge_in_order(weights: NDArray[np.float64], max_groups: int) -> NDArray[np.int64]:
    """Merges neighbours of a topological order, lightest pair first, down to `max_groups`."""
    n = len(weights)
    left, right = list(range(-1, n - 1)), list(range(1, n + 1))
    weight = weights.tolist()
    gone = [False] * n
    heap = [(weight[i] + weight[i + 1], i, i + 1) for i in range(n - 1)]
    heapq.heapify(heap)
    count = n
    while count > max_groups:
        w, i, j = heapq.heappop(heap)
        if gone[i] or gone[j] or right[i] != j or w != weight[i] + weight[j]:
            continue
        weight[i] = w
        gone[j] = True
        right[i] = right[j]
        if right[j] < n:
            left[right[j]] = i
            heapq.heappush(heap, (weight[i] + weight[right[j]], i, right[j]))
        if left[i] >= 0:
            heapq.heappush(heap, (weight[left[i]] + weight[i], left[i], i))
        count -= 1
    return np.cumsum([0 if g else 1 for g in gone]) - 1
