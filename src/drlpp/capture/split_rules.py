"""How operators may be divided: for a cut of a result, how the operands must be cut. By kind of operator.

An operand that a rule does not name is whole on every member. Where a rule is missing, the operator is not divided:
nothing is guessed. The rules know operators, and nothing of any model.

Left out: two axes at once, and operators that draw random numbers, but for dropout, also that inside of attention.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import fx

from drlpp.capture.cuts import PARTIAL, Cut, cut_before_view, merged_cuts, sectioned, tiles

aten = torch.ops.aten
Reads = Mapping[fx.Node, Cut]
MAX_SECTIONS = 32
"""Readers of a tensor up to which its slices are looked at for sections."""
Rule = Callable[[fx.Node, Cut], "Reads | None"]


class Sum(NamedTuple):
    """A division along an axis that an operator sums over.

    Attributes:
        axis: its name.
        reads: operand -> cut.
        gives: `PARTIAL`, or None where the members sum inside the operator and all have the whole result.
    """

    axis: str
    reads: Reads
    gives: Cut | None = PARTIAL


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of a node's tensor; None if it gives none."""
    val = node.meta.get("val")
    return tuple(val.shape) if isinstance(val, torch.Tensor) else None


def reads_for(node: fx.Node, cut: Cut) -> Reads | None:
    """How the operands of a call are cut where its result is `cut`; None where it cannot be.

    The cut of a tuple is that of the tensor that it was split from.
    """
    rule = _RULES.get(node.target)
    if rule is None:
        rule = _grouped if _is_grouped(node) else _pointwise if _is_pointwise(node) else None
    return (rule(node, cut) or None) if rule is not None else None


def sums(node: fx.Node, cuts: Callable[[fx.Node], Iterable[Cut]]) -> Iterator[Sum]:
    """Divisions along axes that the call sums over. Args: `cuts`: node -> how it may be cut."""
    rule = _SUMS.get(node.target, _grouped_sums if _is_grouped(node) else None)
    if rule is not None:
        yield from rule(node, cuts)


def own_axis(node: fx.Node, cut: Cut) -> str:
    """Name of a cut of a result that has no name from the operands: positions in between are a sequence."""
    shape = shape_of(node) or ()
    if node.target is aten.scaled_dot_product_attention.default:
        return "heads" if cut.dim == len(shape) - 3 else "sequence"
    if node.target in _CONVOLUTIONS:
        return "channels"
    if cut.dim == len(shape) - 1:
        return "columns" if node.target in _PRODUCTS or _is_grouped(node) else "features"
    return "sequence"


def names_axes(node: fx.Node) -> bool:
    """Whether the axes of a result have the names that the operator gives them."""
    return node.target is aten.scaled_dot_product_attention.default


def own_cuts(node: fx.Node) -> Iterator[Cut]:
    """Cuts of a result that the operator itself suggests."""
    shape = shape_of(node)
    if shape is None:
        return
    yield from (Cut(dim) for dim, length in enumerate(shape) if length > 1)
    if node.target in _VIEWS:
        source = shape_of(_node(node, 0))
        if source is not None:
            yield from merged_cuts(source, shape)
    elif node.target is aten.cat.default:
        dim = _dim(node, 1, len(shape))
        lengths = [_length(x, dim) if _rank(x) == len(shape) else 0 for x in node.args[0]]  # type: ignore[union-attr, arg-type]
        if min(lengths) > 0 and len(lengths) > 1:
            yield sectioned(dim, lengths)


def passes_partial_sums(node: fx.Node) -> bool:
    """Whether the sum of results is the result of the sum, of one operand: a view, a copy."""
    operand = shape_of(node.all_input_nodes[0]) is not None and node.all_input_nodes[0].meta["val"]
    idle = node.target is aten.dropout.default and not is_random(node)
    if not (idle or node.target in _VIEWS | _LINEAR | _COPIES) or operand is False:
        return False
    return bool(operand.is_floating_point() and node.meta["val"].is_floating_point())


def is_random(node: fx.Node) -> bool:
    """Whether a call draws random numbers."""
    if node.target in (aten.dropout.default, aten.scaled_dot_product_attention.default):
        return bool(_given(node, "p" if node.target is aten.dropout.default else "dropout_p", 0.0)) and bool(
            _given(node, "train", True)
        )
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def draws_in_parts(node: fx.Node) -> bool:
    """Whether each member can take its part of the random numbers that the whole call draws."""
    return node.target in (aten.dropout.default, aten.scaled_dot_product_attention.default)


def _given(node: fx.Node, name: str, default: Any = None) -> Any:
    """The argument of a call by its name."""
    schema = getattr(node.target, "_schema", None)
    for i, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.name == name:
            if i < len(node.args):
                return node.args[i]
            return node.kwargs.get(name, argument.default_value)
    return default


def _node(node: fx.Node, position: int) -> fx.Node:
    found = node.args[position]
    if not isinstance(found, fx.Node):
        found = node.all_input_nodes[0]
    return found


def _dim(node: fx.Node, position: int, rank: int, default: int = 0) -> int:
    given = node.args[position] if len(node.args) > position else node.kwargs.get("dim", default)
    return int(given) % max(rank, 1)  # type: ignore[arg-type]


def _rank(node: fx.Node) -> int:
    return len(shape_of(node) or ())


def _length(node: fx.Node, dim: int) -> int:
    return (shape_of(node) or ())[dim]


def _is_pointwise(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _pointwise(node: fx.Node, cut: Cut) -> Reads | None:
    """Elements of the result depend on those of the operands at the same place, after broadcasting."""
    shape = shape_of(node)
    if shape is None:
        return None
    reads = {}
    for operand in node.all_input_nodes:
        own = shape_of(operand)
        if own is None:
            return None
        dim = cut.dim - (len(shape) - len(own))
        if dim < 0 or own[dim] == 1:
            continue
        if own[dim] != shape[cut.dim]:
            return None
        reads[operand] = Cut(dim, cut.sections)
    return reads


def _linear(node: fx.Node, cut: Cut) -> Reads | None:
    x, weight = _node(node, 0), _node(node, 1)
    bias = _given(node, "bias")
    if cut.dim < _rank(node) - 1:
        return {x: cut}
    reads = {weight: Cut(0, cut.sections)}
    return reads | {bias: Cut(0, cut.sections)} if isinstance(bias, fx.Node) else reads


def _linear_sums(node: fx.Node, cuts: Callable[[fx.Node], Iterable[Cut]]) -> Iterator[Sum]:
    x, weight = _node(node, 0), _node(node, 1)
    last = _rank(x) - 1
    for cut in cuts(x):
        if cut.dim == last:
            yield Sum("rows", {x: cut, weight: Cut(1, cut.sections)})


def _operands(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The factors of a product of matrices."""
    first = 1 if node.target in (aten.addmm.default, aten.baddbmm.default) else 0
    return _node(node, first), _node(node, first + 1)


def _matmul(node: fx.Node, cut: Cut) -> Reads | None:
    (a, b), rank = _operands(node), _rank(node)
    if a is b or min(_rank(a), _rank(b)) < 2:
        return None
    reads = {}
    for operand, own in ((a, rank - 2), (b, rank - 1)):
        dim = cut.dim - (rank - _rank(operand))
        if cut.dim >= rank - 2:
            if cut.dim == own:
                reads[operand] = Cut(dim, cut.sections)
        elif dim >= 0 and _length(operand, dim) > 1:
            reads[operand] = Cut(dim, cut.sections)
    added = node.args[0]
    if node.target in (aten.addmm.default, aten.baddbmm.default) and isinstance(added, fx.Node):
        dim = cut.dim - (rank - _rank(added))
        if dim >= 0 and _length(added, dim) > 1:
            reads[added] = Cut(dim, cut.sections)
    return reads


def _matmul_sums(node: fx.Node, cuts: Callable[[fx.Node], Iterable[Cut]]) -> Iterator[Sum]:
    a, b = _operands(node)
    if a is b or min(_rank(a), _rank(b)) < 2 or node.target is aten.baddbmm.default:
        return
    for cut in cuts(a):
        if cut.dim == _rank(a) - 1:
            yield Sum("rows", {a: cut, b: Cut(_rank(b) - 2, cut.sections)})


def _grouped(node: fx.Node, cut: Cut) -> Reads | None:
    """Rows that each belong to one of several matrices (experts): rows [n, k], matrices [e, k, m]."""
    return {_node(node, 1): Cut(2, cut.sections)} if cut.dim == 1 and _rank(_node(node, 1)) == 3 else None


def _grouped_sums(node: fx.Node, cuts: Callable[[fx.Node], Iterable[Cut]]) -> Iterator[Sum]:
    rows, matrices = _node(node, 0), _node(node, 1)
    if _rank(rows) == 2 and _rank(matrices) == 3:
        yield from (Sum("rows", {rows: cut, matrices: Cut(1, cut.sections)}) for cut in cuts(rows) if cut.dim == 1)


def _is_grouped(node: fx.Node) -> bool:
    """PyTorch's product of groups of rows, and those of libraries, which take the same arguments."""
    return "grouped_mm" in str(node.target)


def _convolution(node: fx.Node, cut: Cut) -> Reads | None:
    weight, bias = _node(node, 1), _given(node, "bias")
    if cut.dim == 0:
        return {_node(node, 0): cut}
    if cut.dim != 1 or _rank(node) != _rank(weight):
        return None
    reads = {weight: Cut(0, cut.sections)}
    if _given(node, "groups", 1) != 1:
        if not _groups_divide(node) or (cut.sections and _length(node, 1) != _length(_node(node, 0), 1)):
            return None
        reads[_node(node, 0)] = cut
    return reads | {bias: Cut(0, cut.sections)} if isinstance(bias, fx.Node) else reads


def _groups_divide(node: fx.Node) -> bool:
    """Whether equal parts of both channels are always whole groups, as in a depthwise convolution."""
    channels = math.gcd(_length(_node(node, 0), 1), _length(node, 1))
    return bool(_given(node, "groups") % channels == 0)


def _convolution_sums(node: fx.Node, cuts: Callable[[fx.Node], Iterable[Cut]]) -> Iterator[Sum]:
    x, weight = _node(node, 0), _node(node, 1)
    if _given(node, "groups", 1) == 1 and _rank(node) == _rank(weight):
        for cut in cuts(x):
            if cut.dim == 1:
                yield Sum("rows", {x: cut, weight: Cut(1, cut.sections)})


def _batch_norm(node: fx.Node, cut: Cut) -> Reads | None:
    """Channels; running statistics are whole on every member, and members tell each other theirs."""
    if cut.dim != 1:
        return None
    learned = [x for x in (_given(node, "weight"), _given(node, "bias")) if isinstance(x, fx.Node)]
    return {_node(node, 0): cut, **dict.fromkeys(learned, Cut(0, cut.sections))}


def _pooled(node: fx.Node, cut: Cut) -> Reads | None:
    """Pools work in the plane of each channel."""
    return {_node(node, 0): cut} if cut.dim < _rank(node) - 2 else None


def _embedding(node: fx.Node, cut: Cut) -> Reads | None:
    weight, ids = _node(node, 0), _node(node, 1)
    return {weight: Cut(1, cut.sections)} if cut.dim == _rank(node) - 1 else {ids: cut}


def _embedding_sums(node: fx.Node, cuts: Callable[[fx.Node], Iterable[Cut]]) -> Iterator[Sum]:
    yield Sum("vocabulary", {_node(node, 0): Cut(0)})


def _attention(node: fx.Node, cut: Cut) -> Reads | None:
    """Heads, which queries, keys and values have in the same order, or queries."""
    q, k, v = (_node(node, i) for i in range(3))
    mask, rank = _given(node, "attn_mask"), _rank(node)
    if len({q, k, v}) < 3 or rank < 3 or cut.sections:
        return None
    if cut.dim == rank - 1 or (cut.dim == rank - 2 and _given(node, "is_causal")):
        return None
    reads = {q: cut} if cut.dim == rank - 2 else {q: cut, k: cut, v: cut}
    if isinstance(mask, fx.Node):
        dim = cut.dim - (rank - _rank(mask))
        if dim >= 0 and _length(mask, dim) > 1:
            reads[mask] = Cut(dim)
    return reads


def _loss_sums(node: fx.Node, cuts: Callable[[fx.Node], Iterable[Cut]]) -> Iterator[Sum]:
    """Cross entropy of classes that the members share out: they sum exponentials, and the loss is whole."""
    x, target = _node(node, 0), _node(node, 1)
    plain = _given(node, "weight") is None and not _given(node, "label_smoothing")
    if plain and _rank(x) == 2 and not target.meta["val"].is_floating_point():
        yield Sum("vocabulary", {x: Cut(1)}, None)


def _view(node: fx.Node, cut: Cut) -> Reads | None:
    source, shape = shape_of(_node(node, 0)), shape_of(node)
    if source is None or shape is None:
        return None
    before = cut_before_view(source, shape, cut)
    return None if before is None else {_node(node, 0): before}


def _unsqueeze(node: fx.Node, cut: Cut) -> Reads | None:
    dim = _dim(node, 1, _rank(node))
    return None if cut.dim == dim else {_node(node, 0): Cut(cut.dim - (cut.dim > dim), cut.sections)}


def _permute(node: fx.Node, cut: Cut) -> Reads | None:
    rank = _rank(node)
    if node.target is aten.permute.default:
        order = [int(d) % rank for d in node.args[1]]  # type: ignore[union-attr, arg-type]
    elif node.target is aten.transpose.int:
        order = list(range(rank))
        i, j = _dim(node, 1, rank), _dim(node, 2, rank)
        order[i], order[j] = order[j], order[i]
    elif node.target is aten.numpy_T.default:
        order = list(range(rank))[::-1]
    else:
        order = [*range(rank - 2), rank - 1, rank - 2] if rank > 1 else [0]
    return {_node(node, 0): Cut(order[cut.dim], cut.sections)}


def _expand(node: fx.Node, cut: Cut) -> Reads | None:
    source = _node(node, 0)
    dim = cut.dim - (_rank(node) - _rank(source))
    if dim < 0 or _length(source, dim) == 1:
        return {}
    return {source: Cut(dim, cut.sections)}


def _same(node: fx.Node, cut: Cut) -> Reads | None:
    return {_node(node, 0): cut}


def _but_one_dimension(position: int, default: int = 0) -> Rule:
    """Operators that work along one dimension, which must be whole."""

    def rule(node: fx.Node, cut: Cut) -> Reads | None:
        return None if cut.dim == _dim(node, position, _rank(node), default) else {_node(node, 0): cut}

    return rule


def _normalised(node: fx.Node, cut: Cut) -> Reads | None:
    """Norms over the last dimensions."""
    last = len(node.args[1])  # type: ignore[arg-type]
    return None if cut.dim >= _rank(node) - last else {_node(node, 0): cut}


def _reduced(node: fx.Node, cut: Cut) -> Reads | None:
    """Sums and means over some dimensions; the others pass."""
    source = _node(node, 0)
    rank = _rank(source)
    given = _given(node, "dim")
    gone = {int(d) % rank for d in given} if given else set(range(rank))
    left = list(range(rank)) if _given(node, "keepdim") else [d for d in range(rank) if d not in gone]
    dim = left[cut.dim]
    return None if dim in gone else {source: Cut(dim, cut.sections)}


def _select(node: fx.Node, cut: Cut) -> Reads | None:
    source = _node(node, 0)
    dim = _dim(node, 1, _rank(source))
    return {source: Cut(cut.dim + (cut.dim >= dim), cut.sections)}


def _slice(node: fx.Node, cut: Cut) -> Reads | None:
    """A slice along another dimension, or one of slices that divide the dimension into sections."""
    source = _node(node, 0)
    dim = _dim(node, 1, _rank(source))
    if cut.dim != dim or _length(source, dim) == _length(node, dim):
        return {source: cut}
    if cut.sections or len(source.users) > MAX_SECTIONS:
        return None
    siblings = [u for u in source.users if u.target is aten.slice.Tensor and _dim(u, 1, _rank(source)) == dim]
    sections = tiles([_range(u, _length(source, dim)) for u in siblings], _length(source, dim))
    return {source: sectioned(dim, sections)} if sections else None


def _range(node: fx.Node, length: int) -> tuple[int, int]:
    start, stop = (_given(node, name) for name in ("start", "end"))
    start, stop = 0 if start is None else int(start), length if stop is None else int(stop)
    start, stop = (min(n if n >= 0 else n + length, length) for n in (start, stop))
    return (start, stop) if _given(node, "step", 1) == 1 else (-1, -1)


def _cat(node: fx.Node, cut: Cut) -> Reads | None:
    operands: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    if any(_rank(x) != _rank(node) for x in operands):
        return None
    dim = _dim(node, 1, _rank(node))
    if cut.dim != dim:
        return dict.fromkeys(operands, cut)
    lengths = [_length(x, dim) for x in operands]
    return dict.fromkeys(operands, Cut(dim)) if cut == sectioned(dim, lengths) else None


def _stack(node: fx.Node, cut: Cut) -> Reads | None:
    dim = _dim(node, 1, _rank(node))
    operands: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    return None if cut.dim == dim else dict.fromkeys(operands, Cut(cut.dim - (cut.dim > dim), cut.sections))


def _tuple(node: fx.Node, cut: Cut) -> Reads | None:
    """A tensor that is split: the cut of the tuple is that of the tensor."""
    return {_node(node, 0): cut}


def _element(node: fx.Node, cut: Cut) -> Reads | None:
    """An element of a tensor that is split along a dimension."""
    made = _node(node, 0)
    if made.target not in _SPLITTERS:
        return None
    source = _node(made, 0)
    removed = made.target is aten.unbind.int
    dim = _dim(made, 1 if removed else 2, _rank(source))
    if removed:
        return {made: Cut(cut.dim + (cut.dim >= dim), cut.sections)}
    if cut.dim != dim:
        return {made: cut}
    lengths = [int(part.shape[dim]) for part in made.meta["val"]]
    if cut.sections or min(lengths) < 1:
        return None
    return {made: sectioned(dim, lengths) if len(lengths) > 1 else cut}


_VIEWS = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.dim,
    aten.squeeze.default,
    aten.squeeze.dims,
}
_LINEAR = {
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.mT.default,
    aten.numpy_T.default,
    aten.unsqueeze.default,
}
_COPIES = {
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten._to_copy.default,
    aten.type_as.default,
}
_SPLITTERS = {aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int}
_CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
_MATRICES = {aten.addmm.default, aten.mm.default, aten.bmm.default, aten.matmul.default, aten.baddbmm.default}
_PRODUCTS = {aten.linear.default, *_MATRICES}
_RULES: dict[Any, Rule] = {
    operator.getitem: _element,
    aten.linear.default: _linear,
    aten.embedding.default: _embedding,
    aten.scaled_dot_product_attention.default: _attention,
    aten.unsqueeze.default: _unsqueeze,
    aten.permute.default: _permute,
    aten.transpose.int: _permute,
    aten.t.default: _permute,
    aten.mT.default: _permute,
    aten.numpy_T.default: _permute,
    aten.expand.default: _expand,
    aten.softmax.int: _but_one_dimension(1, -1),
    aten._softmax.default: _but_one_dimension(1, -1),
    aten.log_softmax.int: _but_one_dimension(1, -1),
    aten.cumsum.default: _but_one_dimension(1),
    aten.layer_norm.default: _normalised,
    aten.rms_norm.default: _normalised,
    aten.batch_norm.default: _batch_norm,
    aten.max_pool2d.default: _pooled,
    aten.avg_pool2d.default: _pooled,
    aten.adaptive_avg_pool2d.default: _pooled,
    aten.mean.dim: _reduced,
    aten.sum.dim_IntList: _reduced,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.dropout.default: _pointwise,
    aten.where.ScalarOther: _pointwise,
    aten.where.ScalarSelf: _pointwise,
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(_COPIES, _same),
    **dict.fromkeys(_SPLITTERS, _tuple),
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_MATRICES, _matmul),
}
_SUMS: dict[Any, Callable[[fx.Node, Callable[[fx.Node], Iterable[Cut]]], Iterator[Sum]]] = {
    aten.linear.default: _linear_sums,
    aten.embedding.default: _embedding_sums,
    aten.cross_entropy_loss.default: _loss_sums,
    **dict.fromkeys(_CONVOLUTIONS, _convolution_sums),
    **dict.fromkeys(_MATRICES, _matmul_sums),
}
