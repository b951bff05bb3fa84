"""What one member of a group computes of an op, and what a collective inside the group takes.

FLOP are divided by the degree. Bytes are those of the operands and results as the member holds them: parts of what is
cut, all of what is whole or a partial sum. Where an op stands for several kernels, each is taken to have the op's share
of whole bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from drlpp.cluster import Link
from drlpp.cost.collectives import half_ring_s, ring_s
from drlpp.graph import PARTIAL_SUM, Op, OpGraph, Part, Split, Work

Placement = tuple[int, tuple[int, ...]] | None
"""Dimension that is cut, with its sections; None for whole."""
PARTIAL: Placement = (PARTIAL_SUM, ())
BATCH_NORM = "aten.batch_norm"
GRADIENT_PASSES = 4
"""Times that the weight gradient moves the bytes of a parameter: written, and added to what was there."""


def placement(part: Part | None) -> Placement:
    """The placement of a part; None for whole."""
    return None if part is None else (part.dim, part.sections)


@dataclasses.dataclass(frozen=True)
class Operands:
    """Sizes of what an op reads and gives.

    Attributes:
        read, given, params: name -> bytes of tensors read, tensors given, and parameters.
        statistics: bytes of the buffers of a batch norm.
    """

    read: dict[str, float]
    given: dict[str, float]
    params: dict[str, float]
    statistics: float = 0.0


def operands(graph: OpGraph) -> list[Operands]:
    """Per op, what it reads and gives."""
    out = [
        Operands({}, {}, {p: graph.param_bytes[p] for p in op.params}, _statistics(op, graph.buffer_bytes))
        for op in graph.ops
    ]
    for (src, dst), edge in zip(graph.edge_ends.tolist(), graph.edges, strict=True):
        out[src].given[edge.tensor] = out[dst].read[edge.tensor] = graph.tensor_bytes[edge.tensor]
    for op, found in zip(graph.ops, out, strict=True):
        if not found.given:
            found.given[op.name] = op.output_bytes
    return out


def _statistics(op: Op, sizes: Mapping[str, float]) -> float:
    return sum(sizes[b] for b in op.buffers) if op.kind == BATCH_NORM else 0.0


def member_op(op: Op, split: Split, sizes: Operands, degree: int) -> Op:
    """The op as one of `degree` members computes it under a split. Measured times stay as they are."""
    cut = {part.tensor for part in split.reads} | {part.tensor for part in split.gives if part.dim != PARTIAL_SUM}
    read, given, params = (_whole(table, cut) for table in (sizes.read, sizes.given, sizes.params))
    looks_up = op.forward.bytes < read[1] + given[1] + params[1] / 2  # of its parameter, as many rows as it gives
    loaded = (0.0, 0.0) if looks_up else params
    moved = _share((read[0] + given[0] + loaded[0], read[1] + given[1] + loaded[1]))
    passes = GRADIENT_PASSES
    both = read[1] + given[1]
    seen = min(1.0, max(0.0, op.weight_grad.bytes - passes * params[1]) / both) if both else 0.0
    learned = _share((seen * (read[0] + given[0]) + passes * params[0], seen * both + passes * params[1]))
    given_whole = 1.0 if any(part.dim == PARTIAL_SUM for part in split.gives) else 0.0
    return dataclasses.replace(
        op,
        forward=_divided(op.forward, degree, moved, given_whole),
        input_grad=_divided(op.input_grad, degree, moved, _share(read)),
        weight_grad=_divided(op.weight_grad, degree, learned, _share(params)),
        output_bytes=op.output_bytes * (_share(given) + (1 - _share(given)) / degree),
    )


def _whole(sizes: dict[str, float], cut: set[str]) -> tuple[float, float]:
    """Bytes that are not cut, and all bytes."""
    return sum(size for name, size in sizes.items() if name not in cut), sum(sizes.values())


def _share(part_and_all: tuple[float, float]) -> float:
    part, everything = part_and_all
    return part / everything if everything else 0.0


def _divided(work: Work, degree: int, whole_bytes: float, whole_outputs: float) -> Work:
    """A member's part of a work, of which these shares of bytes and of outputs are not divided."""
    moved, outputs = (share + (1 - share) / degree for share in (whole_bytes, whole_outputs))
    divided = dataclasses.replace(
        work,
        flop=work.flop / degree,
        bytes=work.bytes * moved,
        outputs=work.outputs * outputs,
        streamed_bytes=work.streamed_bytes * moved,
    )
    return divided.with_fixed(
        work.fixed_flop / degree,
        work.fixed_bytes * moved,
        work.fixed_outputs * outputs,
        work.fixed_streamed_bytes * moved,
    )


def move_s(source: Placement, target: Placement, num_bytes: float, link: Link, degree: int) -> float:
    """Seconds that bring a tensor of `num_bytes` from one placement to another inside a group.

    A sum of parts is an all-reduce, or a reduce-scatter where the result is cut; parts are put together by an
    all-gather, and cut elsewhere by an all-to-all. Cutting what is whole is free.
    """
    if source == target or source is None or not num_bytes:
        return 0.0
    if source == PARTIAL and target is None:
        return ring_s(degree, num_bytes, link)
    if source == PARTIAL or target is None:
        return half_ring_s(degree, num_bytes, link)
    return (degree - 1) / degree * num_bytes / degree / link.bandwidth + link.latency_s


def inner_s(split: Split, sizes: Operands, link: Link, degree: int) -> float:
    """Seconds of what the members exchange inside an op.

    Where it sums over what they share out: the largest, the sum and the picked value of its rows. Of a batch norm, the
    statistics of their channels.
    """
    read = [part.tensor for part in split.reads if part.tensor in sizes.read]
    if split.gives or not read:
        return half_ring_s(degree, sizes.statistics, link) if sizes.statistics else 0.0
    rows = sum(sizes.read[tensor] for tensor in read) / split.size
    return 3 * ring_s(degree, rows, link)
