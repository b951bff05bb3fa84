"""Topological orders of an operator graph: a contiguous split of a good one can be as good as any split."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.graph import OpGraph
from drlpp.graph.topology import depths


def op_orders(graph: OpGraph, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Endless: the order of the graph, depth first, backward depth first, breadth first, then random depth first."""
    seen: set[bytes] = set()
    n = graph.num_ops
    given = np.arange(n, dtype=np.int64)
    makers: list[Callable[[], NDArray[np.int64]]] = [
        lambda: given,
        lambda: depth_first(graph, np.arange(n, dtype=np.float64)),
        lambda: reversed_depth_first(graph, -np.arange(n, dtype=np.float64)),
        lambda: breadth_first(graph),
    ]
    repeats = 0
    while repeats < 20:
        order = makers.pop(0)() if makers else depth_first(graph, rng.random(n))
        key = order.tobytes()
        if key in seen:
            repeats += 1
            continue
        seen.add(key)
        yield order


def priority_order(graph: OpGraph, priority: NDArray[np.float64]) -> NDArray[np.int64]:
    """The topological order that always takes the ready op of smallest priority ``[num_ops]``."""
    waiting = [len(p) for p in graph.predecessors]
    heap = [(priority[i], i) for i in range(graph.num_ops) if waiting[i] == 0]
    heapq.heapify(heap)
    out = []
    while heap:
        _, i = heapq.heappop(heap)
        out.append(i)
        for j in graph.successors[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                heapq.heappush(heap, (priority[j], j))
    return np.array(out, dtype=np.int64)


def depth_first(graph: OpGraph, priority: NDArray[np.float64]) -> NDArray[np.int64]:
    """Follows a branch to its end before it starts the next: ops that just became ready come first."""
    return _follow_branches(graph.predecessors, graph.successors, priority)


def reversed_depth_first(graph: OpGraph, priority: NDArray[np.float64]) -> NDArray[np.int64]:
    """The same from the outputs: an op comes as late as its branch allows."""
    return _follow_branches(graph.successors, graph.predecessors, priority)[::-1].copy()


def _follow_branches(
    before: Sequence[Sequence[int]], after: Sequence[Sequence[int]], priority: NDArray[np.float64]
) -> NDArray[np.int64]:
    waiting = [len(b) for b in before]
    stack = sorted((i for i in range(len(before)) if waiting[i] == 0), key=lambda i: -priority[i])
    out = []
    while stack:
        i = stack.pop()
        out.append(i)
        ready = []
        for j in after[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                ready.append(j)
        stack.extend(sorted(ready, key=lambda j: -priority[j]))
    return np.array(out, dtype=np.int64)


def breadth_first(graph: OpGraph) -> NDArray[np.int64]:
    """By depth: the number of arcs on the longest path to the op."""
    return np.argsort(depths(graph.predecessors), kind="stable").astype(np.int64)
