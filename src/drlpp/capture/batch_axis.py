"""The batch axis of a captured model: which part of every amount grows with the number of samples.

The model is captured twice, the second time with twice the samples. An amount that is ``a`` for n samples and ``b``
for 2 n has the fixed part ``2 a - b``.

Left out: amounts that grow otherwise than in proportion; such a model keeps the size at which it was captured.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from drlpp.capture.sources.model_source import Example
from drlpp.graph import Op, OpGraph, Work
from drlpp.torch_private import tree_leaves, tree_map

TOLERANCE = 1e-6
"""Part of an amount by which it may more than double."""


def num_samples(example: Example) -> int:
    """Samples of an example: the first dimension of its first tensor that has one; 1 if none has."""
    tensors = [t for t in tree_leaves((example.args, dict(example.kwargs))) if isinstance(t, torch.Tensor)]
    return next((int(t.shape[0]) for t in tensors if t.dim() and t.shape[0]), 1)


def with_samples(example: Example, samples: int) -> Example:
    """The example with another number of samples: its own, over and over.

    Every tensor whose first dimension is the number of samples is taken to have a batch axis.
    """
    before = num_samples(example)
    if samples == before:
        return example

    def resized(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.dim() or value.shape[0] != before:
            return value
        return value[torch.arange(samples, device=value.device) % before]

    return dataclasses.replace(
        example, args=tree_map(resized, example.args), kwargs=tree_map(resized, dict(example.kwargs))
    )


def with_batch_axis(graph: OpGraph, doubled: OpGraph) -> OpGraph:
    """The graph with the fixed part of every amount, from the graph of twice the samples.

    A model with other operators at the other size, or with an amount that more than doubles, has no batch axis. Splits
    along axes whose length depends on the samples are left out.
    """
    if _structure(graph) != _structure(doubled) or _grows_faster(graph, doubled):
        return dataclasses.replace(graph, batch_axis="none")
    fixed = {name: _fixed(size, doubled.tensor_bytes[name]) for name, size in graph.tensor_bytes.items()}
    return dataclasses.replace(
        graph,
        ops=tuple(_op(a, b) for a, b in zip(graph.ops, doubled.ops, strict=True)),
        tensor_fixed_bytes={name: size for name, size in fixed.items() if size > 0},
        batch_axis="linear",
    )


def _grows_faster(graph: OpGraph, doubled: OpGraph) -> bool:
    pairs = [(size, doubled.tensor_bytes[name]) for name, size in graph.tensor_bytes.items()]
    for a, b in zip(graph.ops, doubled.ops, strict=True):
        pairs += [(getattr(a, part).flop, getattr(b, part).flop) for part in ("forward", "input_grad", "weight_grad")]
    return any(after > 2 * before * (1 + TOLERANCE) for before, after in pairs)


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
        splits=tuple(split for split in op.splits if split in doubled.splits),
    )


def _work(work: Work, doubled: Work) -> Work:
    return dataclasses.replace(
        work,
        fixed_flop=_fixed(work.flop, doubled.flop),
        fixed_bytes=_fixed(work.bytes, doubled.bytes),
        fixed_outputs=_fixed(work.outputs, doubled.outputs),
        fixed_streamed_bytes=_fixed(work.streamed_bytes, doubled.streamed_bytes),
    )


def _fixed(amount: float, doubled: float) -> float:
    return min(max(2 * amount - doubled, 0.0), amount)
