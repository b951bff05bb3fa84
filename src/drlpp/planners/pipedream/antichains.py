"""The states of PipeDream's optimizer: antichains of the graph, each standing for everything up to it.

Source: `optimizer/graph/graph.py` of the PipeDream repository, whose walk this follows: it starts at the first source
(only), and goes from a state to the one that adds a successor of its augmented antichain with all that the successor
needs. What a cut after a state costs is the sum of the activations of the *augmented* antichain: the maximal ops, and
each ancestor p of a maximal op a that has an edge to an op that is neither a nor an ancestor of a (even if that op
lies before the cut too).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.graph.topology import ancestor_masks


@dataclasses.dataclass(frozen=True)
class CutStates:
    """States in order of size; the first is empty and the last is everything.

    Attributes:
        masks: per state its ops as bits.
        boundary: per state, the ops whose outputs cross the cut after it, as PipeDream counts them.
    """

    masks: tuple[int, ...]
    boundary: tuple[tuple[int, ...], ...]

    @property
    def num_states(self) -> int:
        return len(self.masks)

    def contained(self) -> NDArray[np.bool_]:
        """``[P, P]`` whether state i is a proper subset of state j."""
        out = np.zeros((self.num_states, self.num_states), dtype=np.bool_)
        for i, small in enumerate(self.masks):
            for j in range(i + 1, self.num_states):
                out[i, j] = small & ~self.masks[j] == 0
        return out


def bits(mask: int) -> list[int]:
    """Positions of the set bits, ascending."""
    packed = np.frombuffer(mask.to_bytes((mask.bit_length() + 7) // 8, "little"), dtype=np.uint8)
    return np.flatnonzero(np.unpackbits(packed, bitorder="little")).tolist()


class _Walk:
    def __init__(self, predecessors: Sequence[Sequence[int]]) -> None:
        n = len(predecessors)
        self.successors: list[list[int]] = [[] for _ in range(n)]
        for i, before in enumerate(predecessors):
            for p in before:
                self.successors[p].append(i)
        self.ancestors = ancestor_masks(predecessors)
        self._after = [sum(1 << j for j in after) for after in self.successors]
        self._added: dict[int, int] = {}

    def augmented(self, mask: int) -> tuple[int, ...]:
        """The maximal ops of a state and the ancestors that are counted with them."""
        out = 0
        for i in bits(mask):
            if not self._after[i] & mask:
                out |= (1 << i) | self._added_by(i)
        return tuple(bits(out))

    def _added_by(self, a: int) -> int:
        """Ancestors of op a with an edge to an op that is neither a nor an ancestor of a."""
        if a not in self._added:
            unknown = ~(self.ancestors[a] | (1 << a))
            self._added[a] = sum(1 << p for p in bits(self.ancestors[a]) if self._after[p] & unknown)
        return self._added[a]

    def next_states(self, mask: int, augmented: Sequence[int]) -> list[int]:
        out = []
        for p in augmented:
            for q in self.successors[p]:
                if not mask >> q & 1:
                    out.append(mask | self.ancestors[q] | (1 << q))
        return out


def cut_states(predecessors: Sequence[Sequence[int]], limit: int) -> CutStates | None:
    """PipeDream's states of a graph whose ops are in topological order; None if there are more than `limit`.

    A graph that is not reached in full from its first source gets the full state added, as its last one.
    """
    walk = _Walk(predecessors)
    full = (1 << len(predecessors)) - 1
    first = 1
    boundary: dict[int, tuple[int, ...]] = {}
    todo = [first]
    while todo:
        mask = todo.pop()
        if mask in boundary:
            continue
        if len(boundary) >= limit:
            return None
        boundary[mask] = walk.augmented(mask)
        todo.extend(walk.next_states(mask, boundary[mask]))
    if full not in boundary:
        boundary[full] = walk.augmented(full)
    masks = sorted(boundary, key=lambda m: (m.bit_count(), m))
    return CutStates((0, *masks), ((), *(boundary[m] for m in masks)))


def prefix_states(predecessors: Sequence[Sequence[int]], limit: int) -> CutStates:
    """Prefixes of the order of the ops, at most `limit` of them, evenly spaced: for graphs with too many antichains."""
    n = len(predecessors)
    last_use = list(range(n))
    for i, before in enumerate(predecessors):
        for p in before:
            last_use[p] = max(last_use[p], i)
    ends = sorted({round(x) for x in np.linspace(1, n, min(n, limit))})
    masks = [(1 << e) - 1 for e in ends]
    crossing = [tuple(i for i in range(e) if last_use[i] >= e or i == n - 1) for e in ends]
    return CutStates((0, *masks), ((), *crossing))


def path_states(predecessors: Sequence[Sequence[int]]) -> CutStates:
    """Only the cuts that every path crosses in one op: the path that is left when branches are contracted.

    After the cut, no op but the last one before it is used.
    """
    n = len(predecessors)
    last_use = [-1] * n
    for i, before in enumerate(predecessors):
        for p in before:
            last_use[p] = i
    last_source = max(i for i in range(n) if not predecessors[i])
    first_sink = next(i for i in range(n) if last_use[i] < 0)
    ends, reach = [], -1
    for i in range(n):
        # in any topological order, the ops before a cut of the path are those before its last op
        if reach <= i and last_source <= i and first_sink >= i:
            ends.append(i)
        reach = max(reach, last_use[i])
    if not ends or ends[-1] != n - 1:
        ends.append(n - 1)
    return CutStates((0, *((1 << (i + 1)) - 1 for i in ends)), ((), *((i,) for i in ends)))
