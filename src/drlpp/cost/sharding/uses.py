"""What a graph has to be divided, whatever the devices: options of its ops, and who makes, reads and keeps what.

The graph remembers it for each degree, so that groups of other devices ask again at little cost.
"""

from __future__ import annotations

from collections import defaultdict

from drlpp.cost.sharding.classes import equal_ops
from drlpp.cost.sharding.members import PARTIAL, Placement, operands, placement
from drlpp.cost.sharding.program import ParamUse, SavedUse, TensorUse
from drlpp.graph import Op, OpGraph, Split

STREAM_AXES = ("sequence", "features")
"""Axes of activations that stay whole between divided ops, unless `sequence` is given."""
_KNOWN = "_uses_by_group"
_CLASSES = "_equal_ops"


def uses_of(graph: OpGraph, degree: int, *, sequence: bool) -> Uses:
    """The uses of a graph, made once for each degree."""
    known: dict[tuple[int, bool], Uses] = vars(graph).setdefault(_KNOWN, {})
    if (degree, sequence) not in known:
        known[degree, sequence] = Uses(graph, degree, sequence=sequence)
    return known[degree, sequence]


def _classes(graph: OpGraph) -> list[int]:
    known = vars(graph)
    if _CLASSES not in known:
        known[_CLASSES] = equal_ops(graph)
    found: list[int] = known[_CLASSES]
    return found


class Uses:
    """Options and uses of one graph and degree. Tensors, parameters and what is kept are used by positions of ops.

    Attributes:
        graph, degree, sequence: as in `drlpp.cost.sharding.shard`.
        sizes: per op, what it reads and gives.
        numbers: per op, the indices of the splits that may be taken; option 0 is to stay whole.
        classes: per op its class of equal ones.
        tensors: tensor -> its maker and readers.
        params, saved: parameters and their readers; kept tensors and their keepers.
        members, graphs: (class, option) -> op, and options -> graph of a member, as far as they were asked.
    """

    def __init__(self, graph: OpGraph, degree: int, *, sequence: bool) -> None:
        self.graph, self.degree, self.sequence = graph, degree, sequence
        self.sizes = operands(graph)
        self.numbers = [self._allowed(op) for op in graph.ops]
        self.classes = _classes(graph)
        self.tensors = self._tensor_uses()
        self.params = self._param_uses()
        self.saved = self._saved_uses()
        self.members: dict[tuple[int, int], Op] = {}
        self.graphs: dict[tuple[int, ...], OpGraph] = {}

    def _allowed(self, op: Op) -> list[int]:
        """Indices of the splits that may be taken."""
        return [
            k
            for k, split in enumerate(op.splits)
            if split.fits(self.degree) and (self.sequence or split.axis not in STREAM_AXES)
        ]

    def splits(self, i: int) -> list[Split]:
        """The splits that op i may take."""
        return [self.graph.ops[i].splits[k] for k in self.numbers[i]]

    def _placements(self, i: int, tensor: str, *, given: bool) -> tuple[Placement, ...]:
        """Per option of op i, how it gives or reads a tensor."""
        found = [split.given(tensor) if given else split.read(tensor) for split in self.splits(i)]
        return (None, *map(placement, found))

    def _tensor_uses(self) -> dict[str, TensorUse]:
        """Tensor -> its maker and readers, by their positions."""
        makers: dict[str, int] = {}
        readers: dict[str, dict[int, None]] = defaultdict(dict)
        learns: set[str] = set()
        for (src, dst), edge in zip(self.graph.edge_ends.tolist(), self.graph.edges, strict=True):
            makers[edge.tensor] = src
            readers[edge.tensor][dst] = None
            if edge.requires_grad:
                learns.add(edge.tensor)
        return {
            tensor: TensorUse(
                self.graph.tensor_bytes[tensor],
                tensor in learns,
                maker,
                self._placements(maker, tensor, given=True),
                tuple((r, self._placements(r, tensor, given=False)) for r in sorted(readers[tensor])),
            )
            for tensor, maker in makers.items()
        }

    def _param_uses(self) -> list[ParamUse]:
        readers: dict[str, list[tuple[int, tuple[Placement, ...]]]] = defaultdict(list)
        for i, op in enumerate(self.graph.ops):
            for param in op.params:
                partial = PARTIAL if learns(self.graph, op, param) else None
                first, *others = self._placements(i, param, given=False)
                readers[param].append((i, (first, *(partial if held is None else held for held in others))))
        return [ParamUse(self.graph.param_bytes[param], tuple(found)) for param, found in readers.items()]

    def _saved_uses(self) -> list[SavedUse]:
        keepers: dict[str, list[tuple[int, tuple[bool, ...]]]] = defaultdict(list)
        for i, op in enumerate(self.graph.ops):
            for tensor in op.saved:
                keepers[tensor].append((i, (False, *(tensor in split.keeps for split in self.splits(i)))))
        return [SavedUse(self.graph.tensor_bytes[tensor], tuple(found)) for tensor, found in keepers.items()]


def learns(graph: OpGraph, op: Op, param: str) -> bool:
    """An op makes a gradient of a parameter that it reads."""
    return param not in graph.frozen and bool(op.weight_grad.flop or op.weight_grad.bytes)
