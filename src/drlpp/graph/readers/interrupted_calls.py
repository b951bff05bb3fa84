"""Nesting of an execution trace in which a call was interrupted.

A checkpoint that computes a part again stops by an exception when it has what it needs. The call that this interrupts
is never recorded, what follows names it as its parent, and the calls of the autograd engine after that lie in the one
that was at work, to the end of the trace. Left so, the backward pass would belong to the wrong ops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from drlpp.graph.readers.recorded import ENGINE

_GENERATED = re.compile(r"\w+Backward\d+")
"""Functions of PyTorch's own operators. None of them runs a backward pass of its own."""


def parents(nodes: Sequence[Mapping[str, Any]], threads: Sequence[int], sequences: Sequence[int]) -> list[int]:
    """Position of the node that encloses each node; -1 if none does.

    The root of a trace is its own parent; a collective that runs on another thread may be named as the parent of a
    node that began before it, which is none.

    Args:
        nodes: in order of their start.
        threads: of each node.
        sequences: autograd sequence numbers, negative where nothing is recorded for autograd.
    """
    position = {node["id"]: k for k, node in enumerate(nodes)}
    found: list[int] = []
    last: dict[int, int] = {}  # thread -> its last node
    interrupted: set[int] = set()  # threads
    for k, node in enumerate(nodes):
        thread = threads[k]
        above = position.get(int(node["ctrl_deps"]))
        if above is None:
            above = _function_around(last.get(thread, -1), nodes, sequences, found)
            if above >= 0:
                interrupted.add(thread)
        elif above >= k:
            above = -1
        if thread in interrupted and str(node["name"]).startswith(ENGINE):
            above = _outside(above, nodes, found)
        found.append(above)
        last[thread] = k
    return found


def _function_around(k: int, nodes: Sequence[Mapping[str, Any]], sequences: Sequence[int], above: Sequence[int]) -> int:
    """The autograd function whose work node k is part of, past what is computed again; -1 in a forward pass."""
    path = [k]
    while path[-1] >= 0 and not str(nodes[path[-1]]["name"]).startswith(ENGINE):
        path.append(above[path[-1]])
    if path[-1] < 0:
        return -1
    return next((p for p in path[1:] if sequences[p] < 0 or _is_function(nodes[p])), path[-1])


def _is_function(node: Mapping[str, Any]) -> bool:
    return "::" not in str(node["name"])


def _outside(k: int, nodes: Sequence[Mapping[str, Any]], above: Sequence[int]) -> int:
    """What encloses the engine's calls around k that run PyTorch's own functions."""
    here = k
    while here >= 0:
        name = str(nodes[here]["name"])
        if name.startswith(ENGINE) and _GENERATED.fullmatch(name.removeprefix(ENGINE)):
            k = above[here]
        here = above[here]
    return k
