"""Contraction: groups of ops become the ops of a smaller graph that costs the same.

Work and times add up, tensors and parameters keep their names. So a partition of the groups costs what the same
partition of the ops costs. A group of one op can be divided as the op can (`Op.splits`), a larger one not at all.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.graph.op_graph import Edge, Op, OpGraph, OpTimes, total_work


def contract(graph: OpGraph, group: NDArray[np.int64], times: Mapping[str, NDArray[np.float64]], name: str) -> OpGraph:
    """The graph of the groups, named ``group0``, ``group1``, ...

    Args:
        group: ``[num_ops]`` group of each op, in a topological order of the groups, without gaps.
        times: device type -> ``[3, num_ops]`` seconds of forward, input gradient and weight gradient.
        name: of the new graph.

    Raises:
        GraphError: the order of the groups is not topological.
    """
    num_groups = int(group.max()) + 1
    members: list[list[Op]] = [[] for _ in range(num_groups)]
    for op, g in zip(graph.ops, group.tolist(), strict=True):
        members[g].append(op)
    summed = {
        kind: np.array([np.bincount(group, weights=row, minlength=num_groups) for row in table])
        for kind, table in times.items()
    }
    return OpGraph(
        name=name,
        ops=tuple(
            _group_op(f"group{g}", ops, {kind: OpTimes(*table[:, g].tolist()) for kind, table in summed.items()})
            for g, ops in enumerate(members)
        ),
        edges=_group_edges(graph, group),
        tensor_bytes=graph.tensor_bytes,
        param_bytes=graph.param_bytes,
        buffer_bytes=graph.buffer_bytes,
        frozen=graph.frozen,
        tensor_fixed_bytes=graph.tensor_fixed_bytes,
        source=graph.source,
        samples_per_microbatch=graph.samples_per_microbatch,
        tokens_per_sample=graph.tokens_per_sample,
        dtype=graph.dtype,
        compute_dtype=graph.compute_dtype,
        low_tensors=graph.low_tensors,
        batch_axis=graph.batch_axis,
    )


def _group_op(name: str, ops: Sequence[Op], times: Mapping[str, OpTimes]) -> Op:
    weight: dict[str, float] = defaultdict(float)
    for op in ops:
        weight[op.kind] += op.forward.flop + 1e-6 * op.forward.bytes + 1e-9
    return Op(
        name=name,
        kind=max(sorted(weight), key=lambda kind: weight[kind]),
        members=tuple(m for op in ops for m in op.members),
        forward=total_work(op.forward for op in ops),
        input_grad=total_work(op.input_grad for op in ops),
        weight_grad=total_work(op.weight_grad for op in ops),
        params=tuple(dict.fromkeys(p for op in ops for p in op.params)),
        buffers=tuple(dict.fromkeys(b for op in ops for b in op.buffers)),
        saved=tuple(dict.fromkeys(t for op in ops for t in op.saved)),
        output_bytes=sum(op.output_bytes for op in ops),
        kv_bytes_per_token=sum(op.kv_bytes_per_token for op in ops),
        times=times,
        in_order=any(op.in_order for op in ops),
        splits=ops[0].splits if len(ops) == 1 else (),
    )


def _group_edges(graph: OpGraph, group: NDArray[np.int64]) -> tuple[Edge, ...]:
    merged: dict[tuple[int, int, str, str], Edge] = {}
    for e in graph.edges:
        a, b = int(group[graph.index[e.src]]), int(group[graph.index[e.dst]])
        if a != b:
            key = (a, b, e.tensor, e.phase)
            grad = e.requires_grad or (key in merged and merged[key].requires_grad)
            merged[key] = dataclasses.replace(e, src=f"group{a}", dst=f"group{b}", requires_grad=grad)
    return tuple(merged.values())
