"""Which tensors of a captured model have the low precision when it trains in mixed precision.

The rules are those of `torch.autocast` on GPUs: products, convolutions, attention and recurrent layers run in the low
precision; what loses too much by it (norms, softmax, losses, powers, sums) in float32; the rest in the widest type of
its inputs. Models whose parameters are not float32 are left as they are.

Source: https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import fx

from drlpp.capture.calls import is_getitem
from drlpp.graph.mixed_precision import runs_in_float32, runs_low
from drlpp.torch_private import tree_leaves

_KEEPS_FIRST = ("batch_norm", "native_batch_norm", "instance_norm")
"""Operators whose result has the type of their first input, whatever that of their weights."""


def low_nodes(module: fx.GraphModule, no_autocast: Collection[str]) -> set[str]:
    """Names of the nodes that give a float32 tensor as captured, and one of low precision under autocast.

    Args:
        module: a tidied graph.
        no_autocast: nodes in a region that switches autocast off.
    """
    low: dict[fx.Node, bool] = {}
    for node in module.graph.nodes:
        low[node] = node.op == "call_function" and _is_low(node, low, node.name in no_autocast)
    return {node.name for node, is_low in low.items() if is_low}


def _is_low(node: fx.Node, low: Mapping[fx.Node, bool], outside: bool) -> bool:
    if is_getitem(node):
        return low[node.all_input_nodes[0]]
    tensors = [t for t in _leaves(node.meta.get("val")) if t.is_floating_point()]
    if not tensors or any(t.dtype != torch.float32 for t in tensors):
        return False
    name = _name(node)
    if not outside and runs_low(name):
        return True
    if (not outside and runs_in_float32(name)) or _names_its_type(node):
        return False
    inputs = [n for n in node.all_input_nodes if _has_float32(n)]
    if name.endswith("_") or name in _KEEPS_FIRST:
        inputs = inputs[:1]
    return bool(inputs) and all(low[n] for n in inputs)


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet).removeprefix("aten.") if packet is not None else getattr(node.target, "__name__", "")


def _names_its_type(node: fx.Node) -> bool:
    """The model's own code chose the type of the result: ``x.float()``, ``zeros(dtype=...)``."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    return isinstance(given.get("dtype"), torch.dtype)


def _has_float32(node: fx.Node) -> bool:
    return any(t.dtype == torch.float32 for t in _leaves(node.meta.get("val")))


def _leaves(value: object) -> list[torch.Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, torch.Tensor)]
