"""Ops that are alike: at the same place of equal blocks. They are divided alike, so that one block decides for all.

Many ops outside of blocks, such as a list of single layers, are alike if they have the same form. They take turns: the
first, third, ... and the second, fourth, ... are two classes, so that one can undo the cut of the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from drlpp.graph import Edge, Op, OpGraph, Part
from drlpp.graph.blocks import block_of_op

EXACT_OPS = 160
"""Graphs up to this size are solved op by op, and so are so many ops outside of blocks."""


def equal_ops(graph: OpGraph) -> list[int]:
    """Per op the number of its class, counted in the order of their first op."""
    if graph.num_ops <= EXACT_OPS:
        return list(range(graph.num_ops))
    edges: list[list[Edge]] = [[] for _ in graph.ops]
    for (_, dst), edge in zip(graph.edge_ends.tolist(), graph.edges, strict=True):
        edges[dst].append(edge)
    blocks: dict[str, list[int]] = defaultdict(list)
    for i, path in enumerate(block_of_op(graph)):
        blocks[path].append(i)
    place: list[Any] = list(range(graph.num_ops))
    for path, ops in blocks.items():
        if path:
            form = _form(graph, [graph.ops[i] for i in ops], [edges[i] for i in ops])
            for k, i in enumerate(ops):
                place[i] = (form, k)
    outside = blocks.get("", [])
    turns: dict[Any, int] = defaultdict(int)
    for i in outside if len(outside) > EXACT_OPS else ():
        form = _form(graph, [graph.ops[i]], [edges[i]])
        place[i] = (form, "turn", turns[form] % 2)
        turns[form] += 1
    number: dict[Any, int] = {}
    return [number.setdefault(key, len(number)) for key in place]


def _form(graph: OpGraph, ops: Sequence[Op], edges: Sequence[Sequence[Edge]]) -> tuple[Any, ...]:
    """What decides how the ops of a block are divided, with names replaced by numbers."""
    names: dict[str, int] = {}

    def number(name: str) -> int:
        return names.setdefault(name, len(names))

    def parts(found: Sequence[Part]) -> tuple[Any, ...]:
        return tuple((number(part.tensor), part.dim, part.sections) for part in found)

    return tuple(
        (
            op.kind,
            *((*work.amounts, *work.fixed_amounts) for work in (op.forward, op.input_grad, op.weight_grad)),
            tuple((number(p), graph.param_bytes[p], p in graph.frozen) for p in op.params),
            tuple((number(t), graph.tensor_bytes[t]) for t in op.saved),
            tuple((number(e.tensor), graph.tensor_bytes[e.tensor], e.requires_grad) for e in read),
            tuple(
                (s.axis, s.size, parts(s.reads), parts(s.gives), tuple(map(number, s.keeps)), s.times)
                for s in op.splits
            ),
            tuple((kind, t.forward_s, t.input_grad_s, t.weight_grad_s) for kind, t in op.times.items()),
        )
        for op, read in zip(ops, edges, strict=True)
    )
