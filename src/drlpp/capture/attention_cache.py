"""What serving keeps of attention: the keys and values of every token, before heads that share them are repeated.

Attention is an operator, or the two products around a softmax, which keep the keys and the values. Where both are
unfolded from a latent (multi-head latent attention), engines keep the latent and the key that is made beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import torch
from torch import fx

from drlpp.capture.calls import distinct_bytes, is_getitem, kind_of

aten = torch.ops.aten

_ATTENTION = (aten.scaled_dot_product_attention.default,)
_PRODUCT = aten.matmul.default
_SOFTMAX = (aten.softmax.int, aten._softmax.default)
_REPEATS = (
    aten.expand.default,
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.transpose.int,
    aten.permute.default,
    aten.repeat_interleave.self_int,
)
"""Operators that show or repeat the same keys."""
_BETWEEN = {"add", "sub", "mul", "div", "tanh", "where", "masked_fill", "to", "_to_copy", "type_as", "dropout", "clone"}
"""What may stand between the scores, the softmax and the product with the values."""
_UNFOLDING = {"split", "split_with_sizes", "chunk", "slice", "cat", "constant_pad_nd", "pad"}
_NORM = {"to", "_to_copy", "type_as", "mul", "rms_norm", "layer_norm", "split", "split_with_sizes", "chunk", "slice"}
_LATENT_SHARE = 0.25
"""A latent is at most so large a part of the keys and values; an input that is projected once is a larger one."""


def kv_bytes_per_token(nodes: Iterable[fx.Node]) -> float:
    """Bytes of keys and values of one token of one sample, over the attention operators among the nodes."""
    total = 0.0
    for node in nodes:
        if node.target in _ATTENTION:
            samples, tokens = _shape(node)
            total += _kept_bytes(_argument(node, 1), _argument(node, 2)) / (samples * tokens)
        elif _is_scores(node) or _is_weighted_sum(node):
            kept = _argument(node, 1)
            samples, tokens = kept.meta["val"].shape[0], kept.meta["val"].shape[-1 if _is_scores(node) else -2]
            total += _least_bytes(kept) / (int(samples) * int(tokens))
    return total


def tokens_per_sample(nodes: Iterable[fx.Node]) -> int:
    """Length of the sequences that attention sees; 1 where there is no attention."""
    return max((_shape(node)[1] for node in nodes if node.target in _ATTENTION or _is_weighted_sum(node)), default=1)


def _shape(node: fx.Node) -> tuple[int, int]:
    """Samples and tokens of the keys or values ``[..., heads, tokens, size]``."""
    shape = _argument(node, 1).meta["val"].shape
    return int(shape[0]), int(shape[-2])


def _argument(node: fx.Node, index: int) -> fx.Node:
    return node.all_input_nodes[index] if index >= len(node.args) else cast(fx.Node, node.args[index])


def _is_scores(node: fx.Node) -> bool:
    """The product of queries and keys: a softmax follows, and the product with the values."""
    return _is_product(node) and any(
        any(_argument(p, 0) in passed for p in after if _is_product(p))
        for softmax in _found(node, lambda n: list(n.users), lambda n: n.target in _SOFTMAX)
        for after, passed in [_reach(softmax, lambda n: list(n.users))]
    )


def _is_weighted_sum(node: fx.Node) -> bool:
    """The product of the attention weights and the values."""
    return _is_product(node) and any(
        any(_found(softmax, lambda n: n.all_input_nodes, _is_product))
        for softmax in _found(_argument(node, 0), lambda n: n.all_input_nodes, lambda n: n.target in _SOFTMAX)
    )


def _is_product(node: fx.Node) -> bool:
    """A product of two values with samples and heads, ``[samples, heads, ...]``."""
    return node.target == _PRODUCT and all(a.meta["val"].dim() >= 4 for a in node.all_input_nodes)


def _found(
    start: fx.Node, following: Callable[[fx.Node], list[fx.Node]], wanted: Callable[[fx.Node], bool]
) -> Iterator[fx.Node]:
    if wanted(start):
        yield start
        return
    yield from (n for n in _reach(start, following)[0] if wanted(n))


def _reach(start: fx.Node, following: Callable[[fx.Node], list[fx.Node]]) -> tuple[list[fx.Node], set[fx.Node]]:
    """The nodes at the end of all ways from `start` through what may stand between; and those on the ways."""
    ends: list[fx.Node] = []
    passed = {start}
    left = [start]
    while left:
        for node in following(left.pop()):
            if node in passed:
                continue
            if _kind(node) in _BETWEEN:
                passed.add(node)
                left.append(node)
            else:
                ends.append(node)
    return ends, passed


def _kind(node: fx.Node) -> str:
    """Name of the operator, without its namespace."""
    return kind_of(node).rpartition(".")[2] if node.op == "call_function" else ""


def _kept_bytes(keys: fx.Node, values: fx.Node) -> float:
    both = _least_bytes(keys) + _least_bytes(values)
    latent = _latent(values)
    if latent is not None and latent in _ancestors(keys) and distinct_bytes(latent.meta["val"]) <= _LATENT_SHARE * both:
        return float(distinct_bytes(latent.meta["val"]))
    return both


def _least_bytes(node: fx.Node) -> float:
    least = distinct_bytes(node.meta["val"])
    while node.target in _REPEATS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        least = min(least, distinct_bytes(node.meta["val"]))
    return float(least)


def _latent(values: fx.Node) -> fx.Node | None:
    """The projection whose result a second projection unfolds to the values; None if there is one projection."""
    unfolded = _projection(values, _UNFOLDING)
    return None if unfolded is None else _projection(_argument(unfolded, 0), _NORM)


def _projection(node: fx.Node, through: set[str]) -> fx.Node | None:
    """The linear layer that a value comes from through views and the given operators."""
    while node.target is not aten.linear.default:
        if not (node.target in _REPEATS or is_getitem(node) or _kind(node) in through):
            return None
        before = next((n for n in node.all_input_nodes if n.op == "call_function"), None)
        if before is None:
            return None
        node = before
    return node


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """All that a value depends on, as far as the projections that made it and the ones before these."""
    found: set[fx.Node] = set()
    left = [(node, 0)]
    while left:
        at, projections = left.pop()
        if at in found or projections > 1:
            continue
        found.add(at)
        left += [(n, projections + (at.target is aten.linear.default)) for n in at.all_input_nodes]
    return found
