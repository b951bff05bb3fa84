"""What serving keeps of attention: the keys and values of every token, before heads that share them are repeated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import fx

from drlpp.capture.calls import distinct_bytes

aten = torch.ops.aten

_ATTENTION = (aten.scaled_dot_product_attention.default,)
_REPEATS = (
    aten.expand.default,
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.transpose.int,
    aten.repeat_interleave.self_int,
)
"""Operators that show or repeat the same keys."""


def kv_bytes_per_token(nodes: Iterable[fx.Node]) -> float:
    """Bytes of keys and values of one token of one sample, over the attention operators among the nodes."""
    total = 0.0
    for node in nodes:
        if node.target in _ATTENTION:
            samples, tokens = _shape(node)
            total += sum(_least_bytes(_argument(node, i)) for i in (1, 2)) / (samples * tokens)
    return total


def tokens_per_sample(nodes: Iterable[fx.Node]) -> int:
    """Length of the sequences that attention sees; 1 where there is no attention."""
    return max((_shape(node)[1] for node in nodes if node.target in _ATTENTION), default=1)


def _shape(node: fx.Node) -> tuple[int, int]:
    """Samples and tokens of the keys ``[..., heads, tokens, size]``."""
    shape = _argument(node, 1).meta["val"].shape
    return int(shape[0]), int(shape[-2])


def _argument(node: fx.Node, index: int) -> fx.Node:
    return node.all_input_nodes[index] if index >= len(node.args) else cast(fx.Node, node.args[index])


def _least_bytes(node: fx.Node) -> float:
    least = distinct_bytes(node.meta["val"])
    while node.target in _REPEATS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        least = min(least, distinct_bytes(node.meta["val"]))
    return float(least)
