"""FLOP of a kernel that PyTorch starts.

In order: the formula that is registered for the operator (`torch.utils.flop_counter`, where users register their own),
those that are missing there, the formula of the operator's kind (`drlpp.graph.flop_kinds`), one FLOP per element for
kernels that pass once over their tensors (element-wise, reductions, normalisations, pools), none for copies and sums of
rows into a table. What is left has no formula: it is counted as one FLOP per element and said to be unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import flop_registry

from drlpp.graph.flop_kinds import flop_of_kind, grouped_product
from drlpp.torch_private import tree_leaves

aten = torch.ops.aten


class Flop(NamedTuple):
    """FLOP of a kernel, and whether a formula for it is known."""

    amount: float
    known: bool = True


class ProductFlop(Flop):
    """FLOP of a kernel that sums products: of matrices, a convolution, attention."""


def kernel_flop(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Flop:
    """FLOP of one call of an operator (`OpOverload`) with its result."""
    packet = func.overloadpacket
    formula = _FORMULAS.get(packet) or flop_registry.get(packet)
    if formula is not None:
        return ProductFlop(float(formula(*args, **kwargs, out_val=out)))
    results = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
    operands = list({id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}.values())
    if packet in _COPIES or not operands or not any(t.is_floating_point() or t.is_complex() for t in results):
        return Flop(0.0)
    passes_once = _passes_once(func)
    shapes = [tuple(t.shape) for t in operands], [tuple(t.shape) for t in results]
    by_kind = None if passes_once else flop_of_kind(str(packet), *shapes)
    if by_kind is not None:
        return ProductFlop(by_kind)
    known = passes_once or (func.namespace == "aten" and packet.__name__.endswith("_backward"))
    return Flop(float(max(math.prod(t.shape) for t in (*results, *operands))), known)


def _passes_once(func: Any) -> bool:
    """Its tensors are read and written once, with a few FLOP per element."""
    if func.namespace in ("aten", "prims") and _STREAMING.search(func.overloadpacket.__name__):
        return True
    return any(tag in func.tags for tag in _STREAMING_TAGS)


_STREAMING_TAGS = [getattr(torch.Tag, name) for name in ("pointwise", "reduction") if hasattr(torch.Tag, name)]
_STREAMING = re.compile(
    r"norm|softmax|pool|loss|dropout|upsample|grid_sampler|affine_grid|scatter|index|gather|cum(sum|prod|max|min)|sort"
    r"|topk|^(a?sum|a?mean|var|std|a?max|a?min|prod|median|mode|any|all|norm|cat|stack|where)\b|_mean$|^std_|logsumexp"
    r"|logcumsumexp|pad\b|pad_?\dd|embedding|rand|bernoulli|normal|uniform|exponential|multinomial|poisson|_cell|glu|elu"
    r"|silu|gelu|tanh|sigmoid|hardswish|hardtanh|hardsigmoid|threshold|mish|prelu|clamp|masked|tri[lu]|diag|fold|im2col"
    r"|col2im|shuffle|amp_|foreach|native_batch|logit|sinc|special_|histc|bincount|renorm|trace|flip|roll|repeat"
    r"|interleave|unique|put|take|slice|select|split|chunk|view|resize|set_|fill|copy|contiguous|dist_backward|lerp|addc"
    r"|complex|polar|as_strided|softplus|angle|real|imag|abs|sgn|cross"
)
"""ATen kernels that pass once over their tensors and carry no tag that says so."""
_COPIES = {
    aten.clone,
    aten.copy_,
    aten._to_copy,
    aten.zeros,
    aten.ones,
    aten.full,
    aten.fill_,
    aten.zero_,
    aten.cat,
    aten.stack,
    aten.embedding,
    aten.index_select,
    aten.gather,
    aten.index,
    aten.constant_pad_nd,
    aten.index_put,
    aten.index_put_,
    aten._unsafe_index_put,
    aten._index_put_impl_,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.slice_backward,
    aten.select_backward,
    aten._unsafe_view,
    aten.arange,
    aten.new_zeros,
    aten.new_full,
    aten.new_ones,
    aten.expand_copy,
    aten.repeat,
    aten.roll,
    aten.flip,
}


def _attention_flop(
    query: Any, key: Any, value: Any, dropout_p: float = 0.0, is_causal: bool = False, **kwargs: Any
) -> float:
    """Scores and weighted sum: ``2 B H Sq Sk (Dk + Dv)`` (key and value heads may be fewer than query heads).

    Kernels skip what a causal mask hides: about half.
    """
    *batch_and_heads, num_queries, key_size = query.shape
    seen = 0.5 if is_causal else 1.0
    return float(2 * seen * math.prod(batch_and_heads) * num_queries * key.shape[-2] * (key_size + value.shape[-1]))


def _attention_backward_flop(
    gradient: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    logsumexp: Any,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> float:
    """The scores once more and four products: 2.5 times the forward pass."""
    return 2.5 * _attention_flop(query, key, value, dropout_p, is_causal)


def _convolution_backward_flop(gradient: Any, x: Any, weight: Any, *args: Any, **kwargs: Any) -> float:
    """As many for each gradient that is asked for as forward; PyTorch's own formula takes groups for dense."""
    transposed, wanted = args[4], args[7][:2]
    positions = x if transposed else gradient
    return float(2 * positions.numel() * math.prod(weight.shape[1:]) * sum(wanted))


def _rnn_layer_flop(x: Any, w_input: Any, w_hidden: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> float:
    """Two products per time step: ``[T, N, input] x w_input`` and ``[T, N, hidden] x w_hidden``."""
    steps_and_samples = x.shape[0] * x.shape[1]
    return float(2 * steps_and_samples * (math.prod(w_input.shape) + math.prod(w_hidden.shape)))


def _rnn_layer_backward_flop(x: Any, w_input: Any, w_hidden: Any, *args: Any, **kwargs: Any) -> float:
    return 2.0 * _rnn_layer_flop(x, w_input, w_hidden)


def _grouped_flop(first: Any, second: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> float:
    return grouped_product([tuple(first.shape), tuple(second.shape)], [tuple(out_val.shape)])


def _fourier_flop(x: Any, dim: Sequence[int], *args: Any, out_val: Any = None, **kwargs: Any) -> float:
    """``5 n log2 n`` over all transformed axes (the usual count of a complex transform)."""
    largest = max((x, out_val), key=lambda t: t.numel())
    return float(5 * largest.numel() * math.log2(max(2, math.prod(largest.shape[d] for d in dim))))


def _trilinear_flop(a: Any, b: Any, c: Any, e1: Any, e2: Any, e3: Any, sums: Any, *args: Any, **kwargs: Any) -> float:
    """Two products and a sum over every combination of the expanded axes."""
    shapes = []
    for tensor, expanded in ((a, e1), (b, e2), (c, e3)):
        shape = list(tensor.shape)
        for axis in expanded:
            shape.insert(axis, 1)
        shapes.append(shape)
    return float(3 * math.prod(max(extents) for extents in zip(*shapes, strict=True)))


def _distance_flop(a: Any, b: Any, *args: Any, **kwargs: Any) -> float:
    """Difference, power and sum for every pair of rows ``[P, M]`` and ``[R, M]``."""
    return float(3 * math.prod(a.shape) * b.shape[-2])


_FORMULAS: dict[Any, Any] = {
    aten.convolution_backward: _convolution_backward_flop,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
    aten.mkldnn_rnn_layer: _rnn_layer_flop,
    aten.mkldnn_rnn_layer_backward: _rnn_layer_backward_flop,
    aten._fft_r2c: _fourier_flop,
    aten._fft_c2r: _fourier_flop,
    aten._fft_c2c: _fourier_flop,
    aten._trilinear: _trilinear_flop,
    aten._cdist_forward: _distance_flop,
    **{getattr(aten, name): _grouped_flop for name in ("_grouped_mm", "_scaled_grouped_mm") if hasattr(aten, name)},
}
