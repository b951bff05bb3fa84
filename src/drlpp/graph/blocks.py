"""Repeated blocks of a model, recognised by the paths of its modules: the layers of a transformer, the cells of a CNN.

A block is all ops under a module whose last path component is a number (``model.layers.3``). Blocks are repeats of each
other if they have the same structure: the same kinds of ops in the same order. Where lists are nested
(``stages.1.blocks.2``) the outermost that repeats is taken.

Left out: blocks that are not in a list, and repeats that differ in a single op.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from drlpp.graph.op_graph import OpGraph

MIN_REPEATS = 2
_NUMBERS = "_block_numbers"


class Recompute(enum.IntEnum):
    """What a stage computes again before the backward pass. As numbers the first two are flags.

    NONE: nothing; what the backward pass reads is kept.
    STAGE: its whole forward pass; only the stage's inputs are kept.
    BLOCK: each repeated block, just before that block's own backward pass, so that one block's activations exist at a
        time. What enters a block is kept, and what ops outside of blocks need. A block that a border of stages cuts
        is one block in each stage.
    """

    NONE = 0
    STAGE = 1
    BLOCK = 2


def block_of_op(graph: OpGraph) -> tuple[str, ...]:
    """Per op, the path of the repeated block that it belongs to (``model.layers.3``); empty if to none."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, op in enumerate(graph.ops):
        for path in _numbered_prefixes(op.module):
            members[path].append(i)
    repeats: dict[tuple[str, ...], int] = defaultdict(int)
    structure = {path: tuple(graph.ops[i].kind for i in ops) for path, ops in members.items()}
    for kinds in structure.values():
        repeats[kinds] += 1
    repeated = {path for path, kinds in structure.items() if len(kinds) > 1 and repeats[kinds] >= MIN_REPEATS}
    return tuple(next((p for p in _numbered_prefixes(op.module) if p in repeated), "") for op in graph.ops)


def block_numbers(graph: OpGraph) -> NDArray[np.int64]:
    """``[num_ops]`` the same as numbers from 0 on; -1 where there is none. The graph remembers them."""
    known: dict[str, NDArray[np.int64]] = vars(graph)
    if _NUMBERS not in known:
        number: dict[str, int] = {}
        blocks = block_of_op(graph)
        known[_NUMBERS] = np.array([number.setdefault(b, len(number)) if b else -1 for b in blocks], dtype=np.int64)
    return known[_NUMBERS]


def _numbered_prefixes(path: str) -> Iterator[str]:
    """Prefixes of a dotted path that end in a number, outermost first."""
    parts = path.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            yield ".".join(parts[: i + 1])
