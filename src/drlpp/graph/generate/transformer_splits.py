"""How the ops of a generated transformer may be divided, by their names: as engines with tensor parallelism do it.

Queries, keys, values, the feed-forward projection and the head fall into columns, what follows them does as well, and
the projections back into rows. Experts are divided as feed-forward parts are, each of them among all members. All else
may be cut along the sequence. Tensors are taken as samples x sequence x width; what attention computes inside is cut
at its heads, here the width.

Engines give each device its own random numbers, so ops with dropout are divided too.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

from drlpp.graph.op_graph import Op, OpGraph
from drlpp.graph.splits import PARTIAL_SUM, Part, Split

_SEQUENCE, _WIDTH = 1, 2
_COLUMNS = {"qkv": "heads", "q": "heads", "k": "heads", "v": "heads", "gate": "ffn", "up": "ffn", "head": "vocabulary"}
_COLUMNS |= dict.fromkeys(("expert_gate", "expert_up"), "ffn")
_ROWS = {"out": "heads", "down": "ffn", "expert_down": "ffn"}
_SORTED = ("route", "dispatch", "expert_gate", "expert_up", "expert_swiglu", "expert_down")
"""Tokens in the order of their experts: nothing of these is cut along the sequence. Weights are experts x in x out."""
_INSIDE = dict.fromkeys(
    ("rotary", "sdpa", "layout", "scores", "mask", "softmax", "dropout", "cast", "mix", "merge"), "heads"
) | {"swiglu": "ffn", "gelu": "ffn", "expert_swiglu": "ffn"}
_ATTENDS = ("sdpa", "layout", "scores", "mask", "softmax", "dropout", "cast", "mix", "merge")


def with_splits(graph: OpGraph, *, heads: Sequence[int], ffn: int, vocabulary: int, sequence: int) -> OpGraph:
    """The graph of `transformer_graph`, whose ops say how they may be divided.

    Args:
        heads: numbers of heads that a degree must divide: of queries, and of keys and values.
        ffn, vocabulary, sequence: lengths of these axes.
    """
    sizes = {"heads": math.gcd(*heads), "ffn": ffn, "vocabulary": vocabulary, "sequence": sequence}
    read: dict[str, list[str]] = defaultdict(list)
    for e in graph.edges:
        read[e.dst].append(e.tensor)
    ops = tuple(dataclasses.replace(op, splits=_splits(op, read[op.name], sizes)) for op in graph.ops)
    return dataclasses.replace(graph, ops=ops)


def _splits(op: Op, read: Sequence[str], sizes: dict[str, int]) -> tuple[Split, ...]:
    name = op.name.rpartition(".")[2]
    width = [Part(tensor, _WIDTH) for tensor in read]
    weight = [Part(param, 2 if name in _SORTED else 0) for param in op.params[:1]]
    partial = (Part(op.name, PARTIAL_SUM),)
    own = tuple(t for t in op.saved if t.partition(":")[0] == op.name)
    found: list[tuple[str, str, Sequence[Part], tuple[Part, ...], tuple[str, ...]]] = []
    if name in _COLUMNS:
        found.append(("columns", _COLUMNS[name], weight, (Part(op.name, _WIDTH),), ()))
    elif name in _ROWS:
        weight = [Part(param, 1) for param in op.params[:1]]
        found.append(("rows", _ROWS[name], [*width, *weight], partial, op.saved))
    elif name in _INSIDE:
        axis = "heads" if _INSIDE[name] == "heads" else "columns"
        found.append((axis, _INSIDE[name], width, (Part(op.name, _WIDTH),), op.saved))
    elif name == "embedding":
        found.append(("vocabulary", "vocabulary", weight, partial, ()))
    elif name == "loss":
        found.append(("vocabulary", "vocabulary", width, (), own))
    if name not in (*_ATTENDS, *_SORTED, "loss", "input"):
        along = [Part(tensor, _SEQUENCE) for tensor in read]
        found.append(("sequence", "sequence", along, (Part(op.name, _SEQUENCE),), op.saved))
    return tuple(
        Split(axis, sizes[size], tuple(reads), gives, keeps)
        for axis, size, reads, gives, keeps in found
        if sizes[size] > 1
    )
