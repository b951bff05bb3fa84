"""Serving instead of training: the graph of one step in which every sequence in service gets a token.

Weights are read once per step whatever the number of sequences, other work is that of one token of each, and attention
reads the keys and values of the whole context. Memory is weights, the key-value cache, and the workspace of the
largest op on the micro-batch that was captured (a prompt, or a piece of one). Nothing flows back: there are no
gradients, no optimizer and no activations kept. Groups of devices divide products, vocabulary and heads, and with the
heads the cache; each member has the whole workspace.

Left out: the work of prompts, pages of the cache that are not full, and caches of a window or of a recurrent state.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from drlpp.errors import InputError
from drlpp.graph import Op, OpGraph, OpTimes, Split
from drlpp.graph.op_graph import NO_WORK

WITHOUT_LENGTH = ("sequence", "features")
"""Axes of splits that serving does not have: a step has one token of each sequence, and engines keep it whole."""
WORKSPACE = "workspace"
"""Name of the tensor that every op of a serving graph holds; it counts once in each stage."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServingLoad:
    """What is served at a time.

    Attributes:
        sequences: how many; each gets one token per step.
        context_length: tokens of each in the key-value cache, prompt and answer together.

    Raises:
        InputError: a number is below 1.
    """

    sequences: int
    context_length: int

    def __post_init__(self) -> None:
        for name, value in (("sequences", self.sequences), ("context length", self.context_length)):
            if value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")


def captured_load(graph: OpGraph) -> ServingLoad:
    """The sequences of the captured micro-batch at their length."""
    return ServingLoad(sequences=graph.samples_per_microbatch, context_length=graph.tokens_per_sample)


def serving_graph(graph: OpGraph, load: ServingLoad) -> OpGraph:
    """The graph of one step of serving. Its micro-batch is one token of every sequence.

    Args:
        graph: of a forward pass over whole sequences.
    """
    tokens = graph.samples_per_microbatch * graph.tokens_per_sample
    part = load.sequences / tokens
    cache = {op.name: op.kv_bytes_per_token * load.sequences * load.context_length for op in graph.ops}
    sizes = {tensor: size * part for tensor, size in graph.tensor_bytes.items()}
    sizes |= {f"{name}:cache": size for name, size in cache.items() if size}
    sizes[WORKSPACE] = _workspace_bytes(graph)
    longer = load.context_length / graph.tokens_per_sample
    return dataclasses.replace(
        graph,
        name=f"{graph.name} serving {load.sequences} x {load.context_length}",
        ops=tuple(_step_of(op, graph, load.sequences, cache[op.name], longer) for op in graph.ops),
        edges=tuple(dataclasses.replace(edge, requires_grad=False) for edge in graph.edges if edge.phase == "forward"),
        tensor_bytes=sizes,
        tensor_fixed_bytes={},
        samples_per_microbatch=load.sequences,
        tokens_per_sample=1,
        batch_axis="none",
    )


def carried_edges(graph: OpGraph) -> list[bool]:
    """Per edge whether an engine has to send its tensor with the hidden states, and cannot make it on every stage.

    A tensor with a gradient; in a graph without gradients, one that comes from a parameter. Masks and positions come
    from inputs and buffers.
    """
    if any(edge.requires_grad for edge in graph.edges):
        return [edge.requires_grad for edge in graph.edges]
    carried = [bool(op.params) for op in graph.ops]
    for i, before in enumerate(graph.predecessors):
        carried[i] = carried[i] or any(carried[j] for j in before)
    return [carried[src] for src, _ in graph.edge_ends.tolist()]


def _step_of(op: Op, graph: OpGraph, sequences: int, cache_bytes: float, longer: float) -> Op:
    tokens = graph.samples_per_microbatch * graph.tokens_per_sample
    part = sequences / tokens
    weights = sum(graph.param_bytes[p] for p in op.params)
    forward = op.forward
    if weights <= forward.bytes:  # a table of which few rows are read moves less than it holds
        forward = dataclasses.replace(forward, fixed_bytes=max(forward.fixed_bytes, weights))
    forward = forward.scaled(sequences, tokens)
    if cache_bytes:
        forward = dataclasses.replace(forward, flop=forward.flop * longer, bytes=forward.bytes + cache_bytes)
    return dataclasses.replace(
        op,
        forward=forward,
        input_grad=NO_WORK,
        weight_grad=NO_WORK,
        saved=(WORKSPACE, f"{op.name}:cache") if cache_bytes else (WORKSPACE,),
        output_bytes=op.output_bytes * part,
        times={kind: OpTimes(times.forward_s * part, 0.0, 0.0) for kind, times in op.times.items()},
        kv_bytes_per_token=0.0,
        splits=tuple(_served_splits(op, graph)),
    )


def _served_splits(op: Op, graph: OpGraph) -> Iterator[Split]:
    """The splits of an op; with the heads of attention the cache is divided, as far as it has heads."""
    tokens = graph.samples_per_microbatch * graph.tokens_per_sample
    for split in op.splits:
        if split.axis in WITHOUT_LENGTH:
            continue
        if not op.kv_bytes_per_token:
            yield dataclasses.replace(split, keeps=())
        elif split.axis == "heads":
            read = sum(graph.tensor_bytes[part.tensor] for part in split.reads) - op.output_bytes  # keys and values
            shared = max(1.0, read / (op.kv_bytes_per_token * tokens))
            size = math.gcd(split.size, round(split.size / shared))
            if size > 1:
                yield dataclasses.replace(split, size=size, keeps=(f"{op.name}:cache",))


def _workspace_bytes(graph: OpGraph) -> float:
    """Inputs and outputs of the largest op inside a module, on the captured micro-batch: the loss is not served."""
    has_modules = any(op.module for op in graph.ops)
    inputs: dict[str, float] = dict.fromkeys((op.name for op in graph.ops), 0.0)
    for edge in graph.edges:
        inputs[edge.dst] += graph.tensor_bytes[edge.tensor]
    return max((inputs[op.name] + op.output_bytes for op in graph.ops if op.module or not has_modules), default=0.0)
