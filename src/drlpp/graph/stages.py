"""What a partition makes of an operator graph: the stages, and the messages between them.

A *message* bundles all tensors that one stage produces for the same set of consuming stages. It is sent once to each
device that needs it; where its tensors require a gradient, each such device sends one message of the same size back.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import PlanError
from drlpp.graph.blocks import Recompute, block_numbers
from drlpp.graph.op_graph import OpGraph

Phase = Literal["forward", "backward"]
_Key = tuple[int, str, Phase]  # producing stage, tensor, phase


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Tensors from stage `src` to all of the stages `dsts`.

    Attributes:
        phase: ``forward``: sent after the forward pass of `src`, needed by the forward pass of `dsts`; ``backward``
            (imported graphs with explicit backward operators): the same for the backward pass.
        requires_grad: a gradient of `bytes` flows back from each consuming device.
        transfer_s: seconds that one copy takes where the graph says so; else None.
    """

    src: int
    dsts: tuple[int, ...]
    phase: Phase
    requires_grad: bool
    bytes: float
    tensors: tuple[str, ...]
    transfer_s: float | None


class Kept(NamedTuple):
    """Bytes that a micro-batch of a stage keeps.

    Attributes:
        held: from F to the end of its backward pass.
        again: more during B, which brings back what was not kept.
        remade: more from the start of I to the end of W: all that was not kept.
    """

    held: float
    again: float
    remade: float


@dataclasses.dataclass(frozen=True)
class StageGraph:
    """The DAG of stages under a partition.

    Attributes:
        num_stages: S.
        messages: in order of (src, dsts).
        trained_bytes: ``[S]`` trained parameters that each stage reads; one that two stages share counts in both.
        frozen_bytes: ``[S]`` the same of frozen parameters and buffers.
        activation_bytes: ``[S]`` kept per micro-batch in flight: tensors saved for backward, received and sent. A
            saved tensor that the stage neither makes nor receives is there as views of it, which the stage receives.
        boundary_bytes: ``[S]`` the part of `activation_bytes` that was received: what recomputation has to keep.
        block_inputs_bytes: ``[S]`` what is kept where repeated blocks compute again: all but what only ops inside one
            block made and need.
        largest_block_bytes: ``[S]`` the most of the rest that one block brings back.
        tied: the set of (two or more) stages that share some of these, with their trained and frozen bytes.
    """

    num_stages: int
    messages: tuple[Message, ...]
    trained_bytes: NDArray[np.float64]
    frozen_bytes: NDArray[np.float64]
    activation_bytes: NDArray[np.float64]
    boundary_bytes: NDArray[np.float64]
    block_inputs_bytes: NDArray[np.float64]
    largest_block_bytes: NDArray[np.float64]
    tied: tuple[tuple[tuple[int, ...], float, float], ...]

    @property
    def tied_trained(self) -> tuple[tuple[int, ...], ...]:
        """The sets of stages that share parameters with a gradient."""
        return tuple(stages for stages, trained, _ in self.tied if trained)

    def kept(self, stage: int, recompute: int) -> Kept:
        """What a micro-batch of a stage keeps; `recompute` is a `Recompute`."""
        whole = float(self.activation_bytes[stage])
        if recompute == Recompute.BLOCK:
            held = float(self.block_inputs_bytes[stage])
            return Kept(held, float(self.largest_block_bytes[stage]), whole - held)
        held = float(self.boundary_bytes[stage]) if recompute else whole
        return Kept(held, whole - held, whole - held)


def check_partition(graph: OpGraph, stage_of_op: NDArray[np.int64], num_stages: int) -> None:
    """Checks that every stage has an op and that no edge goes back. Raises PlanError that names the edge."""
    if len(stage_of_op) != graph.num_ops:
        raise PlanError(f"the partition has {len(stage_of_op)} entries: graph {graph.name!r} has {graph.num_ops} ops")
    if num_stages < 1 or stage_of_op.min() < 0 or stage_of_op.max() >= num_stages:
        raise PlanError(
            f"the partition uses stages {stage_of_op.min()}..{stage_of_op.max()}: must be in 0..{num_stages - 1}"
        )
    empty = sorted(set(range(num_stages)) - set(stage_of_op.tolist()))
    if empty:
        raise PlanError(f"stage {empty[0]} has no ops: number the stages without gaps")
    arcs = graph.arcs
    if len(arcs):
        bad = np.flatnonzero(stage_of_op[arcs[:, 0]] > stage_of_op[arcs[:, 1]])
        if len(bad):
            u, v = (int(x) for x in arcs[bad[0]])
            raise PlanError(
                f"edge {graph.ops[u].name!r} -> {graph.ops[v].name!r} goes from stage {stage_of_op[u]} back to stage "
                f"{stage_of_op[v]}: a legal partition has stage(u) <= stage(v) on every edge"
            )


def stage_graph(graph: OpGraph, stage_of_op: NDArray[np.int64], num_stages: int) -> StageGraph:
    """Derives the stage graph from ``[num_ops]`` stage indices. Raises PlanError if the partition is not legal."""
    check_partition(graph, stage_of_op, num_stages)
    messages = tuple(_messages(graph, stage_of_op))
    tensors, params = graph.tensor_table, graph.param_table

    keeper, maker = stage_of_op[tensors.reader], graph.tensor_maker[tensors.item]
    own = (maker < 0) | (stage_of_op[maker] == keeper)
    held = (keeper * len(tensors.bytes) + tensors.item)[own]
    sent, received = [], []
    for m in messages:
        if m.phase == "forward":
            items = [tensors.position[t] for t in m.tensors]
            sent += [m.src * len(tensors.bytes) + t for t in items]
            received += [d * len(tensors.bytes) + t for d in m.dsts for t in items]
    boundary = np.array(received, dtype=np.int64)
    crossing = np.concatenate([np.array(sent, dtype=np.int64), boundary])
    block_inputs, largest_block = _by_blocks(graph, stage_of_op, num_stages, held, own, crossing)
    held = np.concatenate([held, crossing])

    read = np.unique(stage_of_op[params.reader] * len(params.bytes) + params.item)
    readers = np.bincount(read % len(params.bytes), minlength=len(params.bytes)) if len(read) else np.zeros(0)
    trained_bytes = np.where(graph.param_is_trained, params.bytes, 0.0)
    frozen_bytes = np.where(graph.param_is_trained, 0.0, params.bytes)
    tied: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for p in np.flatnonzero(readers > 1).tolist():
        where = read[read % len(params.bytes) == p] // len(params.bytes)
        sums = tied[tuple(where.tolist())]
        sums[0] += float(trained_bytes[p])
        sums[1] += float(frozen_bytes[p])
    return StageGraph(
        num_stages=num_stages,
        messages=messages,
        trained_bytes=_sum_by_stage(read, trained_bytes, num_stages),
        frozen_bytes=_sum_by_stage(read, frozen_bytes, num_stages),
        activation_bytes=_sum_by_stage(np.unique(held), tensors.bytes, num_stages),
        boundary_bytes=_sum_by_stage(np.unique(boundary), tensors.bytes, num_stages),
        block_inputs_bytes=block_inputs,
        largest_block_bytes=largest_block,
        tied=tuple((where, trained, frozen) for where, (trained, frozen) in sorted(tied.items())),
    )


def _by_blocks(
    graph: OpGraph,
    stage_of_op: NDArray[np.int64],
    num_stages: int,
    held: NDArray[np.int64],
    own: NDArray[np.bool_],
    crossing: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``[S]`` each: bytes that stay where blocks compute again, and the most that one block brings back.

    Args:
        held: saved tensors as ``stage * num_tensors + tensor``, of the pairs of `tensor_table` that `own` chooses.
        crossing: what stages send or receive, in the same form.
    """
    tensors, block = graph.tensor_table, block_numbers(graph)
    count = len(tensors.bytes)
    reader, maker = tensors.reader[own], graph.tensor_maker[tensors.item[own]]
    ends, into = graph.edge_ends, graph.values.tensor[graph.values.of_edge]
    inside = stage_of_op[ends[:, 0]] == stage_of_op[ends[:, 1]]
    enters = inside & (block[ends[:, 1]] >= 0) & (block[ends[:, 0]] != block[ends[:, 1]])
    entering = stage_of_op[ends[enters, 1]] * count + into[enters]
    stays = np.unique(np.concatenate([held[block[reader] < 0], entering, crossing]))
    remade, first = np.unique(held, return_index=True)
    again = ~np.isin(remade, stays)
    remade, first = remade[again], first[again]
    owner = np.where(maker[first] >= 0, block[maker[first]], block[reader[first]])
    largest = np.zeros(num_stages)
    if len(remade):
        width = int(block.max()) + 1
        keys, where = np.unique(remade // count * width + np.maximum(owner, 0), return_inverse=True)
        np.maximum.at(largest, keys // width, np.bincount(where, weights=tensors.bytes[remade % count]))
    return _sum_by_stage(stays, tensors.bytes, num_stages), largest


def _messages(graph: OpGraph, stage_of_op: NDArray[np.int64]) -> list[Message]:
    consumers: dict[_Key, set[int]] = defaultdict(set)
    gradient: dict[_Key, bool] = defaultdict(bool)
    seconds: dict[_Key, float | None] = {}
    sources, destinations = stage_of_op[graph.edge_ends[:, 0]], stage_of_op[graph.edge_ends[:, 1]]
    for k in np.flatnonzero(sources != destinations).tolist():
        e = graph.edges[k]
        key = (int(sources[k]), e.tensor, e.phase)
        consumers[key].add(int(destinations[k]))
        gradient[key] |= e.requires_grad
        seconds[key] = e.transfer_s

    bundles: dict[tuple[int, tuple[int, ...], Phase, bool, bool], list[str]] = defaultdict(list)
    for key, dsts in consumers.items():
        a, tensor, phase = key
        bundles[a, tuple(sorted(dsts)), phase, gradient[key], seconds[key] is not None].append(tensor)
    messages = []
    for (a, dsts_, phase, grad, timed), names in sorted(bundles.items()):
        messages.append(
            Message(
                src=a,
                dsts=dsts_,
                phase=phase,
                requires_grad=grad,
                bytes=sum(graph.tensor_bytes[t] for t in names),
                tensors=tuple(names),
                transfer_s=sum(seconds[a, t, phase] or 0.0 for t in names) if timed else None,
            )
        )
    return messages


def _sum_by_stage(pairs: NDArray[np.int64], sizes: NDArray[np.float64], num_stages: int) -> NDArray[np.float64]:
    """``[S]`` sums of sizes over distinct pairs, each ``stage * len(sizes) + item``."""
    if not len(pairs):
        return np.zeros(num_stages)
    return np.asarray(np.bincount(pairs // len(sizes), sizes[pairs % len(sizes)], num_stages), dtype=np.float64)
