"""The splits of the ops of a captured graph: the rules of operators, joined over the operators that an op stands for.

Inside an op nothing is moved: a division of it divides each of its operators, and what one gives is what the next one
reads. Operators without a gradient may be computed whole by every member.

A cut is named after what it cuts: dimensions of the inputs are samples and sequence, products make columns, attention
has heads. Cuts along the samples are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import fx

from drlpp.capture.changed_state import memory_of, written_values
from drlpp.capture.cuts import PARTIAL, Cut, cut_size
from drlpp.capture.groups import is_op
from drlpp.capture.split_rules import (
    Rule,
    draws_in_parts,
    is_random,
    names_axes,
    own_axis,
    own_cuts,
    passes_partial_sums,
    reads_for,
    shape_of,
    sums,
)
from drlpp.graph import Part, Split

MAX_NODES = 64
"""Operators of an op, above which it is not divided."""
MAX_WAYS = 32
"""Divisions of an op that are looked at; the first ones are kept."""
SAMPLES = "samples"
_FIRST = (SAMPLES, "sequence", "features")
"""Names that an axis has before others, where its operands have several."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Way:
    """A division of one operator: operand -> cut, and what it gives (None: whole)."""

    axis: str
    reads: Mapping[fx.Node, Cut]
    gives: Cut | None


@dataclasses.dataclass(frozen=True, slots=True)
class OpDivision:
    """A division of an op: the split, and how each of its operators reads and gives.

    Attributes:
        reads: fx node -> operand -> cut; operands that are left out are whole.
        gives: fx node -> cut, `PARTIAL` or None for whole.
    """

    split: Split
    reads: Mapping[fx.Node, Mapping[fx.Node, Cut]]
    gives: Mapping[fx.Node, Cut | None]

    def keeps_part(self, node: fx.Node, shown: fx.Node | None) -> bool:
        """Whether a member keeps its part only of what `node` keeps, the tensor of `shown` (None: one of its own)."""
        cut = self.gives[node] if shown is node else self.reads.get(node, {}).get(shown) if shown else None
        return node in self.reads if shown is None else cut not in (None, PARTIAL)


class Splitter:
    """Finds the divisions of ops of one graph.

    Args:
        graph: a tidied graph (`drlpp.capture.export`).
        learns: fx nodes whose tensors have a gradient.
        samples: first dimension of the inputs.
    """

    def __init__(self, graph: fx.Graph, learns: Collection[fx.Node], samples: int) -> None:
        self._learns = learns
        self._reads = functools.cache(reads_for)
        self._cuts = _candidates(graph, self._reads)
        self._axis = _axes(graph, self._cuts, self._reads, samples)

    def divisions(self, group: Sequence[fx.Node]) -> list[OpDivision]:
        """All divisions of the op that stands for the nodes of `group`, which are in the order of the graph."""
        if len(group) > MAX_NODES:
            return []
        found: list[OpDivision] = []
        members = set(group)
        for chosen in self._joined(group, 0, {}, {}, members):
            division = self._division(group, chosen)
            if division is not None and all(division.split != other.split for other in found):
                found.append(division)
            if len(found) == MAX_WAYS:
                break
        return found

    def _joined(
        self,
        group: Sequence[fx.Node],
        position: int,
        chosen: dict[fx.Node, _Way | None],
        outside: dict[fx.Node, Cut | None],
        members: set[fx.Node],
    ) -> Iterator[dict[fx.Node, _Way | None]]:
        """Choices of a way for each node (None: whole) that agree; `outside`: how what others made is read."""
        if position == len(group):
            yield dict(chosen)
            return
        node = group[position]
        for way in self._ways(node, members, chosen):
            wanted = {x: way.reads.get(x) if way else None for x in node.all_input_nodes}
            if any(_given_by(chosen, x) != cut for x, cut in wanted.items() if x in members):
                continue
            read = {x: cut for x, cut in wanted.items() if x not in members}
            if any(x in outside and outside[x] != cut for x, cut in read.items()):
                continue
            chosen[node] = way
            yield from self._joined(group, position + 1, chosen, outside | read, members)
            del chosen[node]

    def _ways(
        self, node: fx.Node, members: set[fx.Node], chosen: Mapping[fx.Node, _Way | None]
    ) -> Iterator[_Way | None]:
        if is_random(node) and not draws_in_parts(node):
            return
        inner = [x for x in node.all_input_nodes if x in members]
        if len(inner) == 1 and _given_by(chosen, inner[0]) == PARTIAL:
            if passes_partial_sums(node):
                yield _Way("", {inner[0]: PARTIAL}, PARTIAL)
            return
        if _changes_state(node):
            yield None
            return
        for division in sums(node, lambda x: self._cuts.get(x, ())):
            if all(self._axis.get((x, cut)) != SAMPLES for x, cut in division.reads.items()):
                yield _Way(division.axis, division.reads, division.gives)
        for cut in self._cuts.get(node, ()):
            axis = self._axis.get((node, cut), "")
            if axis != SAMPLES and (reads := self._reads(node, cut)) is not None:
                yield _Way(axis, reads, cut)
        if node not in self._learns:
            yield None

    def _division(self, group: Sequence[fx.Node], chosen: Mapping[fx.Node, _Way | None]) -> OpDivision | None:
        ways = {n: way for n, way in chosen.items() if way is not None}
        members = set(group)
        reads: dict[str, Part] = {}
        lengths: list[int] = []
        for node, way in ways.items():
            for operand, cut in way.reads.items():
                if cut != PARTIAL:
                    lengths.append(cut_size(cut, _cut_shape(operand)))
                    if operand not in members:
                        reads[_name(operand)] = Part(_name(operand), *cut)
            if way.gives is not None and way.gives != PARTIAL:
                lengths.append(cut_size(way.gives, _cut_shape(node)))
        size = math.gcd(*lengths) if lengths else 1
        if size < 2:
            return None
        gives = tuple(
            Part(n.name, *way.gives) for n, way in ways.items() if way.gives is not None and _leaves(n, members)
        )
        axis = next((way.axis for way in ways.values() if way.axis), "features")
        split = Split(axis, size, tuple(reads.values()), gives)
        return OpDivision(
            split,
            {n: way.reads for n, way in ways.items()},
            {n: way.gives if way else None for n, way in chosen.items()},
        )


def connected(
    splits: Sequence[Sequence[Split]], makers: Mapping[str, int], products: Collection[int]
) -> list[list[Split]]:
    """The splits of all ops without those that lead nowhere.

    An op that is no product gains nothing by itself: it is divided only where what it reads can come cut so. No op is
    divided along sections that no reader wants.

    Args:
        splits: per op.
        makers: tensor -> the op that makes it.
        products: ops that compute a product.
    """
    left = [list(of_op) for of_op in splits]
    while True:
        given = {part for of_op in left for split in of_op for part in split.gives}
        read = {part for of_op in left for split in of_op for part in split.reads}
        kept = []
        for i, of_op in enumerate(left):
            asked = [s for s in of_op if not any(p.sections for p in s.gives) or any(p in read for p in s.gives)]
            kept.append([s for s in asked if i in products or _can_come(s, makers, given)])
        if kept == left:
            return left
        left = kept


def _can_come(split: Split, makers: Mapping[str, int], given: Collection[Part]) -> bool:
    """Whether something that an op reads cut is given so, or nothing that it reads cut is made by an op."""
    inner = [part for part in split.reads if part.tensor in makers]
    return not inner or any(part in given for part in inner)


def _given_by(chosen: Mapping[fx.Node, _Way | None], node: fx.Node) -> Cut | None:
    """What a node gives by the choice made for it."""
    way = chosen[node]
    return way.gives if way is not None else None


def _name(node: fx.Node) -> str:
    """Name of what an op reads: a parameter or buffer by its path."""
    return str(node.target) if node.op == "get_attr" else node.name


def _cut_shape(node: fx.Node) -> tuple[int, ...]:
    """The shape that a node's cut is of: of a tuple, that of the tensor that was split."""
    shape = shape_of(node)
    return _cut_shape(node.all_input_nodes[0]) if shape is None else shape


def _leaves(node: fx.Node, members: Collection[fx.Node]) -> bool:
    """Whether a tensor is read outside of its op, or is the loss."""
    return shape_of(node) is not None and any(u not in members for u in node.users)


def _changes_state(node: fx.Node) -> bool:
    """Whether a call changes memory that no op made: of an input, or of a buffer, which are whole on every member.

    Members of a batch norm tell each other the statistics of their channels.
    """
    made = map(memory_of, written_values(node))
    changed = any(not is_op(x) and not isinstance(x.meta.get("val"), torch.nn.Parameter) for x in made)
    return changed and node.target is not torch.ops.aten.batch_norm.default


def _candidates(graph: fx.Graph, reads: Rule) -> dict[fx.Node, list[Cut]]:
    """Node -> how its tensor may be cut: what operators suggest, and what the cuts of their readers ask for."""
    found: dict[fx.Node, dict[Cut, None]] = {n: dict.fromkeys(own_cuts(n)) for n in graph.nodes}
    for node in reversed(graph.nodes):
        for cut in found[node]:
            for operand, wanted in (reads(node, cut) or {}).items() if is_op(node) else ():
                found[operand][wanted] = None
    for node in graph.nodes:
        if is_op(node):
            for cut in _passed_on(node, found, reads):
                found[node].setdefault(cut)
    return {node: list(cuts) for node, cuts in found.items()}


def _passed_on(node: fx.Node, found: Mapping[fx.Node, Mapping[Cut, None]], reads: Rule) -> Iterator[Cut]:
    """Cuts in sections that an operand has, where the result may have the same."""
    shape = shape_of(node)
    for operand in node.all_input_nodes:
        for cut in found[operand]:
            rank = len(shape_of(operand) or ())
            if shape is not None and cut.sections and 0 <= (dim := cut.dim + len(shape) - rank) < len(shape):
                own = Cut(dim, cut.sections)
                if own not in found[node] and (reads(node, own) or {}).get(operand) == cut:
                    yield own


def _axes(
    graph: fx.Graph, cuts: Mapping[fx.Node, Sequence[Cut]], reads: Rule, samples: int
) -> dict[tuple[fx.Node, Cut], str]:
    """(node, cut) -> what it cuts; nothing for parameters, buffers and constants."""
    axis: dict[tuple[fx.Node, Cut], str] = {}
    from_inputs: set[fx.Node] = set()
    for node in graph.nodes:
        shape = shape_of(node)
        if node.op == "placeholder" or not from_inputs.isdisjoint(node.all_input_nodes):
            from_inputs.add(node)
        for cut in cuts[node] if node in from_inputs else ():
            first = cut == Cut(0) and shape is not None and shape[0] == samples
            if node.op == "placeholder":
                axis[node, cut] = SAMPLES if first else "sequence"
                continue
            wanted = reads(node, cut)
            known = [axis[x, c] for x, c in (wanted or {}).items() if (x, c) in axis]
            if SAMPLES in known or (first and wanted is None):
                axis[node, cut] = SAMPLES
            else:
                named = [*(name for name in _FIRST if name in known), *known]
                axis[node, cut] = named[0] if named and not names_axes(node) else own_axis(node, cut)
    return axis
