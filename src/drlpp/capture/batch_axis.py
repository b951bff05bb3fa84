"""The batch axis of a captured model: which part of every amount grows with the number of samples.

The model is captured twice, the second time with twice the samples. An amount that is ``a`` for n samples and ``b``
for 2 n has the fixed part ``2 a - b``.

Left out: models whose operators change with the number of samples; `CaptureError` says so.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from drlpp.capture.sources.model_source import Example
from drlpp.errors import CaptureError
from drlpp.graph import Op, OpGraph, Work


def num_samples(example: Example) -> int:
    """Samples of an example: the first dimension of its first tensor that has one; 1 if none has."""
    tensors = [t for t in tree_leaves((example.args, dict(example.kwargs))) if isinstance(t, torch.Tensor)]
    return next((int(t.shape[0]) for t in tensors if t.dim() and t.shape[0]), 1)


def with_samples(example: Example, samples: int) -> Example:
    """The example with another number of samples: its own, over and over.

    Every tensor whose first dimension is the number of samples is taken to have a batch axis.
    """
    before = num_samples(example)

    def resized(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.dim() or value.shape[0] != before:
            return value
        return value[torch.arange(samples, device=value.device) % before]

    return dataclasses.replace(
        example, args=tree_map(resized, example.args), kwargs=tree_map(resized, dict(example.kwargs))
    )


def with_fixed_parts(graph: OpGraph, doubled: OpGraph) -> OpGraph:
    """The graph with the fixed part of every amount, from the graph of twice the samples.

    Raises:
        CaptureError: the two graphs do not have the same operators.
    """
    if _structure(graph) != _structure(doubled):
        names = {op.name for op in graph.ops}
        other = next((op.name for op in doubled.ops if op.name not in names), "the edges between its operators")
        raise CaptureError(
            f"{graph.source or graph.name!r} has other operators with {doubled.samples_per_microbatch} samples than "
            f"with {graph.samples_per_microbatch} (first: {other}), so a planner cannot choose its micro-batch "
            "size: capture it at the size that you train with"
        )
    fixed = {
        name: _fixed(size, doubled.tensor_bytes[name])
        for name, size in graph.tensor_bytes.items()
        if _fixed(size, doubled.tensor_bytes[name]) > 0
    }
    ops = tuple(_op(a, b) for a, b in zip(graph.ops, doubled.ops, strict=True))
    return dataclasses.replace(graph, ops=ops, tensor_fixed_bytes=fixed)


def _structure(graph: OpGraph) -> tuple[Any, ...]:
    ops = [(op.name, op.kind, op.members, op.params, op.saved) for op in graph.ops]
    edges = [(e.src, e.dst, e.tensor, e.requires_grad) for e in graph.edges]
    return ops, edges, set(graph.tensor_bytes)


def _op(op: Op, doubled: Op) -> Op:
    return dataclasses.replace(
        op,
        forward=_work(op.forward, doubled.forward),
        input_grad=_work(op.input_grad, doubled.input_grad),
        weight_grad=_work(op.weight_grad, doubled.weight_grad),
    )


def _work(work: Work, doubled: Work) -> Work:
    return Work(work.flop, work.bytes, _fixed(work.flop, doubled.flop), _fixed(work.bytes, doubled.bytes))


def _fixed(amount: float, doubled: float) -> float:
    return min(max(2 * amount - doubled, 0.0), amount)
