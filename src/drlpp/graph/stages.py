"""What a partition makes of an operator graph: the stages, and the messages between them.

A *message* bundles all tensors that one stage produces for the same set of consuming stages. It is sent once to each
device that needs it; where its tensors require a gradient, each such device sends one message of the same size back.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import PlanError
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


@dataclasses.dataclass(frozen=True)
class StageGraph:
    """The DAG of stages under a partition.

    Attributes:
        num_stages: S.
        messages: in order of (src, dsts).
        param_bytes: ``[S]`` parameters that each stage reads; a parameter that two stages share counts in both.
        activation_bytes: ``[S]`` kept per micro-batch in flight: tensors saved for backward, received and sent.
        boundary_bytes: ``[S]`` the part of `activation_bytes` that was received: what recomputation has to keep.
        tied: parameter bytes by the set of (two or more) stages that share them.
    """

    num_stages: int
    messages: tuple[Message, ...]
    param_bytes: NDArray[np.float64]
    activation_bytes: NDArray[np.float64]
    boundary_bytes: NDArray[np.float64]
    tied: tuple[tuple[tuple[int, ...], float], ...]


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
    index = graph.index
    stages = stage_of_op.tolist()

    consumers: dict[_Key, set[int]] = defaultdict(set)
    gradient: dict[_Key, bool] = defaultdict(bool)
    seconds: dict[_Key, float | None] = {}
    for e in graph.edges:
        a, b = stages[index[e.src]], stages[index[e.dst]]
        if a != b:
            key = (a, e.tensor, e.phase)
            consumers[key].add(b)
            gradient[key] |= e.requires_grad
            seconds[key] = e.transfer_s

    bundles: dict[tuple[int, tuple[int, ...], Phase, bool, bool], list[str]] = defaultdict(list)
    for key, dsts in consumers.items():
        a, tensor, phase = key
        bundles[a, tuple(sorted(dsts)), phase, gradient[key], seconds[key] is not None].append(tensor)
    messages = []
    for (a, dsts_, phase, grad, timed), tensors in sorted(bundles.items()):
        total = sum(graph.tensor_bytes[t] for t in tensors)
        time = sum(seconds[a, t, phase] or 0.0 for t in tensors) if timed else None
        messages.append(
            Message(
                src=a,
                dsts=dsts_,
                phase=phase,
                requires_grad=grad,
                bytes=total,
                tensors=tuple(tensors),
                transfer_s=time,
            )
        )

    held: list[set[str]] = [set() for _ in range(num_stages)]
    received: list[set[str]] = [set() for _ in range(num_stages)]
    readers: dict[str, set[int]] = defaultdict(set)
    for op, s in zip(graph.ops, stages, strict=True):
        held[s].update(op.saved)
        for p in op.params:
            readers[p].add(s)
    for m in messages:
        if m.phase == "forward":
            held[m.src].update(m.tensors)
            for d in m.dsts:
                received[d].update(m.tensors)
                held[d].update(m.tensors)
    params = np.zeros(num_stages)
    tied: dict[tuple[int, ...], float] = defaultdict(float)
    for p, where in readers.items():
        for s in where:
            params[s] += graph.param_bytes[p]
        if len(where) > 1:
            tied[tuple(sorted(where))] += graph.param_bytes[p]
    size = graph.tensor_bytes
    return StageGraph(
        num_stages=num_stages,
        messages=tuple(messages),
        param_bytes=params,
        activation_bytes=np.array([sum(size[t] for t in sorted(held[s])) for s in range(num_stages)]),
        boundary_bytes=np.array([sum(size[t] for t in sorted(received[s])) for s in range(num_stages)]),
        tied=tuple(sorted(tied.items())),
    )
