"""The amounts of a float32 graph that trains with products of low precision, in one of two ways.

Mixed precision, as `torch.autocast` trains:

- The result of a product is half as large, and so is what follows it as long as all inputs are (`OpGraph.low_tensors`).
- A product that reads a float32 tensor or parameter keeps a copy in the low precision for its backward pass, each
  reader and each micro-batch its own.
- An op moves bytes in proportion to its tensors; the copies that a product makes are moved, too.

Main parameters beside a model of low precision, as Megatron-LM and DeepSpeed train: every tensor is half as large.

Masks and statistics that operators keep for themselves do not shrink.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

from drlpp.errors import GraphError
from drlpp.graph.op_graph import Op, OpGraph, Work
from drlpp.graph.splits import Split

HALF = 0.5
"""Bytes of an element of low precision, per byte of one of float32."""
COPIED = 1.5
"""Bytes moved for a copy in low precision per byte of the original: it is read, and half as much is written."""

_PRODUCTS = """
linear mm addmm bmm baddbmm addbmm matmul mv addmv addr einsum bilinear _scaled_mm grouped_mm _grouped_mm chain_matmul
linalg_multi_dot prelu scaled_dot_product_attention scaled_dot_product_flash_attention lstm gru rnn_tanh rnn_relu
lstm_cell gru_cell
"""
_SENSITIVE = """
layer_norm native_layer_norm group_norm native_group_norm rms_norm _fused_rms_norm softmax log_softmax softmin
cross_entropy_loss nll_loss nll_loss_nd nll_loss2d mse_loss l1_loss smooth_l1_loss huber_loss kl_div
binary_cross_entropy_with_logits cosine_embedding_loss hinge_embedding_loss margin_ranking_loss triplet_margin_loss
soft_margin_loss poisson_nll_loss pow exp expm1 log log2 log10 log1p rsqrt reciprocal erfinv sinh cosh tan acos asin sum
prod cumsum cumprod norm linalg_vector_norm renorm dist cdist pdist cosine_similarity softplus logsumexp
upsample_nearest1d upsample_nearest2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d grid_sampler embedding
"""
_LOW, _FLOAT32 = frozenset(_PRODUCTS.split()), frozenset(_SENSITIVE.split())
_OWN = ":saved"
"""In the names of what an operator keeps for itself: masks, statistics."""


def runs_low(name: str) -> bool:
    """An operator that autocast runs in the low precision, by its name without ``aten.``."""
    return name in _LOW or name.startswith(("conv", "_convolution"))


def runs_in_float32(name: str) -> bool:
    """An operator whose result is float32 whatever its inputs."""
    return name in _FLOAT32


def at_precision(graph: OpGraph, compute_dtype: str, *, main_parameters: bool = False) -> OpGraph:
    """The amounts of a graph where products are computed in an element type.

    Args:
        compute_dtype: ``float32``, ``tf32`` (the amounts of float32), ``bfloat16`` or ``float16``.
        main_parameters: the model itself has low precision, beside float32 main parameters; else mixed precision.

    Raises:
        GraphError: the parameters of the graph are of another low precision, or its amounts are at another precision.
    """
    if compute_dtype == graph.compute_dtype:
        return graph
    if compute_dtype == "tf32" and graph.compute_dtype == "float32":
        return dataclasses.replace(graph, compute_dtype="tf32")
    if compute_dtype in ("bfloat16", "float16") and graph.compute_dtype == "float32":
        return _low_precision(graph, compute_dtype) if main_parameters else _in_mixed_precision(graph, compute_dtype)
    raise GraphError(
        f"graph {graph.name!r} has products in {graph.compute_dtype}, so {compute_dtype} is not possible: capture the "
        "model with float32 parameters, or leave the precision out"
    )


def _low_precision(graph: OpGraph, dtype: str) -> OpGraph:
    """The amounts of a float32 graph whose parameters and activations are of low precision."""

    def halved(sizes: Mapping[str, float]) -> dict[str, float]:
        return {name: size * (1.0 if _OWN in name else HALF) for name, size in sizes.items()}

    return dataclasses.replace(
        graph,
        ops=tuple(
            dataclasses.replace(
                op,
                forward=_work(op.forward, HALF),
                input_grad=_work(op.input_grad, HALF),
                weight_grad=_work(op.weight_grad, HALF),
                output_bytes=op.output_bytes * HALF,
            )
            for op in graph.ops
        ),
        tensor_bytes=halved(graph.tensor_bytes),
        tensor_fixed_bytes=halved(graph.tensor_fixed_bytes),
        compute_dtype=dtype,
    )


def _in_mixed_precision(graph: OpGraph, dtype: str) -> OpGraph:
    """The amounts of a float32 graph when it trains in mixed precision. Args: `dtype` of products."""
    low = _low_tensors(graph)
    sizes = {name: size * (HALF if name in low else 1.0) for name, size in graph.tensor_bytes.items()}
    fixed = {name: size * (HALF if name in low else 1.0) for name, size in graph.tensor_fixed_bytes.items()}
    read: dict[str, dict[str, None]] = defaultdict(dict)
    for e in graph.edges:
        read[e.dst][e.tensor] = None
    makers = {name.partition(":")[0] for name in low}
    ops = []
    for op in graph.ops:
        is_low = runs_low(_operator(op.kind))
        copied = [t for t in op.saved if is_low and t not in low and _OWN not in t]
        weights = op.params if is_low else ()
        for tensor in copied:
            sizes[_copy(op, tensor)] = HALF * graph.tensor_bytes[tensor]
            fixed[_copy(op, tensor)] = HALF * graph.tensor_fixed_bytes.get(tensor, 0.0)
        for param in weights:
            sizes[_copy(op, param)] = fixed[_copy(op, param)] = HALF * graph.param_bytes[param]
        moved = graph.tensor_bytes, sizes
        shrinks = not makers.isdisjoint(op.members)
        before, after = (sum(table[t] for t in read[op.name]) for table in moved)
        output = op.output_bytes * (HALF if shrinks else 1.0)
        factor = HALF if is_low else _ratio(after + output, before + op.output_bytes)
        copies = COPIED * sum(graph.tensor_bytes[t] for t in copied)
        kept = COPIED * sum(graph.param_bytes[p] for p in weights)
        ops.append(
            dataclasses.replace(
                op,
                forward=_work(op.forward, factor, copies, kept),
                input_grad=_work(op.input_grad, factor),
                weight_grad=_work(op.weight_grad, factor),
                saved=(*(_copy(op, t) if t in copied else t for t in op.saved), *(_copy(op, p) for p in weights)),
                output_bytes=output,
                splits=tuple(_with_copies(split, op, copied, weights) for split in op.splits),
            )
        )
    used = {t for op in ops for t in op.saved} | {e.tensor for e in graph.edges}
    return dataclasses.replace(
        graph,
        ops=tuple(ops),
        tensor_bytes={name: size for name, size in sizes.items() if name in used},
        tensor_fixed_bytes={name: size for name, size in fixed.items() if name in used and size},
        compute_dtype=dtype,
    )


def _with_copies(split: Split, op: Op, copied: Sequence[str], weights: Sequence[str]) -> Split:
    """The split of an op that keeps copies of these tensors and parameters; a copy is cut as the original is."""
    kept = [_copy(op, t) if t in copied else t for t in split.keeps]
    return dataclasses.replace(split, keeps=(*kept, *(_copy(op, p) for p in weights if split.read(p))))


def _copy(op: Op, tensor: str) -> str:
    """Name of the copy in low precision that a product keeps of a float32 tensor or parameter."""
    return f"{op.name}:low:{tensor}"


def _ratio(after: float, before: float) -> float:
    return after / before if before else 1.0


def _work(work: Work, factor: float, copies: float = 0.0, fixed_copies: float = 0.0) -> Work:
    """A work whose bytes shrink, with the copies that it makes, a part of them the same for any number of samples."""
    if not work.bytes:
        return work
    more = copies + fixed_copies
    return dataclasses.replace(
        work,
        bytes=work.bytes * factor + more,
        streamed_bytes=work.streamed_bytes * factor + more,
        fixed_bytes=work.fixed_bytes * factor + fixed_copies,
        fixed_streamed_bytes=work.fixed_streamed_bytes * factor + fixed_copies,
    )


def _low_tensors(graph: OpGraph) -> set[str]:
    """What capture noted; or, for graphs of other origin, by the kinds of ops and the edges between them."""
    if graph.low_tensors is not None:
        return set(graph.low_tensors)
    low_ops: set[str] = set()
    inputs: dict[str, list[str]] = defaultdict(list)
    for e in graph.edges:
        inputs[e.dst].append(e.src)
    for op in graph.ops:
        name = _operator(op.kind)
        if runs_low(name) or (not runs_in_float32(name) and inputs[op.name] and low_ops.issuperset(inputs[op.name])):
            low_ops.add(op.name)
    makers = graph.tensor_maker.tolist()
    pairs = zip(graph.tensor_bytes, makers, strict=True)
    return {t for t, i in pairs if i >= 0 and graph.ops[i].name in low_ops and _OWN not in t}


def _operator(kind: str) -> str:
    """``aten.conv2d.3x3`` -> ``conv2d``; a module type such as ``Linear`` in small letters."""
    return kind.removeprefix("aten.").partition(".")[0].lower()
