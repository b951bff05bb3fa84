"""Orders and reachability in directed acyclic graphs, on indices. Uses no costs."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from drlpp.errors import GraphError


def topological_order(num: int, arcs: Iterable[tuple[int, int]], names: Sequence[str] | None = None) -> list[int]:
    """The topological order of ``0..num-1`` that is smallest by index (so a legal input order is kept).

    Raises:
        GraphError: there is a cycle; the message shows one.
    """
    successors: list[list[int]] = [[] for _ in range(num)]
    waiting = [0] * num
    for before, after in set(arcs):
        successors[before].append(after)
        waiting[after] += 1
    ready = [i for i in range(num) if waiting[i] == 0]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in successors[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                heapq.heappush(ready, j)
    if len(order) < num:
        cycle = _find_cycle(successors, [i for i in range(num) if waiting[i] > 0])
        shown = " -> ".join(str(names[i]) if names else str(i) for i in cycle)
        raise GraphError(f"the graph has a cycle: {shown}: an operator graph must be acyclic")
    return order


def _find_cycle(successors: Sequence[Sequence[int]], candidates: Sequence[int]) -> list[int]:
    """One cycle among `candidates`, each of which has a predecessor among them."""
    inside = set(candidates)
    before = {j: i for i in candidates for j in successors[i] if j in inside}
    walk, seen = [candidates[0]], {candidates[0]: 0}
    while True:
        i = before[walk[-1]]
        if i in seen:
            return [i, *reversed(walk[seen[i] :])]
        seen[i] = len(walk)
        walk.append(i)


def ancestor_masks(predecessors: Sequence[Sequence[int]]) -> list[int]:
    """Per vertex of a topologically ordered DAG, its strict ancestors as the bits of an integer."""
    masks: list[int] = []
    for before in predecessors:
        mask = 0
        for i in before:
            mask |= masks[i] | (1 << i)
        masks.append(mask)
    return masks


def depths(predecessors: Sequence[Sequence[int]]) -> list[int]:
    """Per vertex of a topologically ordered DAG, the number of arcs on the longest path to it."""
    out: list[int] = []
    for before in predecessors:
        out.append(1 + max((out[i] for i in before), default=-1))
    return out
