"""What one member of a group calls for its part of a divided operator.

Most operators are called as they are, on parts of their operands. Here is what else changes: sizes that an operator is
told, a bias that one member alone adds, and operators in whose middle the members exchange something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from drlpp.capture.cuts import PARTIAL, Cut
from drlpp.runtime.stage.moves import Members, Placement
from drlpp.runtime.stage.randomness import RandomContext, SeededOp, is_random

aten = torch.ops.aten
Arguments = dict[str, Any]
"""Arguments of a call by the names in its schema."""

_SIZES: dict[Any, str] = {
    aten.view.default: "size",
    aten.reshape.default: "shape",
    aten._unsafe_view.default: "size",
    aten.expand.default: "size",
}
_DROPPING = (aten.dropout.default, aten.scaled_dot_product_attention.default)
_BIAS: dict[Any, str] = {
    aten.linear.default: "bias",
    aten.conv1d.default: "bias",
    aten.conv2d.default: "bias",
    aten.conv3d.default: "bias",
    aten.addmm.default: "self",
    aten.baddbmm.default: "self",
}


def arguments_of(node: fx.Node) -> Arguments:
    """The arguments of a call by name, as far as they are given."""
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def local_arguments(node: fx.Node, gives: Placement, count: int) -> Arguments | None:
    """The arguments for one of `count` members, by name; None where they stay as they are.

    Args:
        node: a divided call.
        gives: placement of the result; for a tuple, that of the tensor that it was split from.
    """
    if gives is None or gives == PARTIAL:
        return None
    given = arguments_of(node)
    if node.target in _SIZES:
        name = _SIZES[node.target]
        return given | {name: _divided(given[name], gives.dim, count)}
    rule = _RULES.get(node.target)
    return None if rule is None else rule(node, given, gives.dim, count)


def bias_of(node: fx.Node) -> fx.Node | None:
    """What one member alone adds where the call gives a partial sum."""
    found = arguments_of(node).get(_BIAS.get(node.target, ""))
    return found if isinstance(found, fx.Node) else None


def exchanging(node: fx.Node, gives: Placement, members: Members, context: RandomContext) -> nn.Module | None:
    """What is called in the place of an operator in whose middle the members exchange something, and the like."""
    if node.target in _DROPPING and is_random(node) and gives is not None:
        draw = SeededOp(aten.dropout.default, node.name, context)
        if node.target is aten.scaled_dot_product_attention.default:
            return AttentionPart(DropoutPart(draw, members, gives, range(node.meta["val"].dim())))
        strides = node.all_input_nodes[0].meta["val"].stride()
        order = sorted(range(len(strides)), key=lambda d: -strides[d])
        return DropoutPart(draw, members, gives, order)
    if node.target is aten.batch_norm.default and gives is not None:
        return BatchNormPart(members, gives)
    if node.target is aten.embedding.default and gives == PARTIAL:
        return EmbeddingPart(members)
    if node.target is aten.cross_entropy_loss.default:
        return CrossEntropyPart(members, node.meta["val"].dtype)
    if node.target is aten.squeeze.default:
        return Squeeze(node.all_input_nodes[0].meta["val"].shape)
    return None


class DropoutPart(nn.Module):
    """Drops of a part what dropout of the whole tensor drops there: every member draws all of the numbers.

    Args:
        draw: dropout, seeded by its name.
        members: of the group.
        cut: of the tensor; `PARTIAL` if each member has a summand of all of it.
        order: its dimensions from the outermost to the innermost in memory, in which numbers are drawn.
    """

    def __init__(self, draw: nn.Module, members: Members, cut: Cut, order: Sequence[int]) -> None:
        super().__init__()
        self.draw = draw
        self._members, self._cut, self._order = members, cut, list(order)

    def forward(self, tensor: torch.Tensor, p: float, train: bool) -> torch.Tensor:
        """A part of the result. The arguments are those of ``aten.dropout``."""
        shape = [n * (self._members.count if d == self._cut.dim else 1) for d, n in enumerate(tensor.shape)]
        with torch.no_grad():
            stored = torch.ones([shape[d] for d in self._order], dtype=tensor.dtype, device=tensor.device)
            kept = self.draw(stored.permute([self._order.index(d) for d in range(len(shape))]), p, train)
        return tensor * (kept if self._cut == PARTIAL else self._members.part(kept, self._cut))


class AttentionPart(nn.Module):
    """Attention of some heads or queries, with dropout of its weights as the whole call has it on a CPU.

    Args:
        drop: dropout of the weights.
    """

    def __init__(self, drop: DropoutPart) -> None:
        super().__init__()
        self.drop = drop

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """A part of the result. The arguments are those of ``aten.scaled_dot_product_attention``."""
        if attn_mask is not None and attn_mask.dtype == torch.bool:  # which the next call would add up
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
        _, weights = aten._scaled_dot_product_attention_math.default(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        if enable_gqa:
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        found: torch.Tensor = self.drop(weights, dropout_p, True) @ value
        return found


class BatchNormPart(nn.Module):
    """Batch norm of the channels that a member has; all members have the statistics of all channels.

    Args:
        members: of the group.
        cut: of the input, along its channels.
    """

    def __init__(self, members: Members, cut: Cut) -> None:
        super().__init__()
        self._members, self._cut = members, Cut(0, cut.sections)

    def forward(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        training: bool,
        *more: Any,
    ) -> torch.Tensor:
        """A part of the result. The arguments are those of ``aten.batch_norm``."""
        whole = [t for t in (running_mean, running_var) if t is not None]
        own = [self._members.part(t, self._cut).clone() for t in whole]
        mean, variance = own or (None, None)
        found: torch.Tensor = aten.batch_norm.default(x, weight, bias, mean, variance, training, *more)
        if training and own:
            both = self._members.move(torch.stack(own, 1), self._cut, None)
            with torch.no_grad():
                for kept, told in zip(whole, both.unbind(1), strict=True):
                    kept.copy_(told)
        return found


class EmbeddingPart(nn.Module):
    """Looks up the rows of a table that this member has; the others are zero."""

    def __init__(self, members: Members) -> None:
        super().__init__()
        self._place = members.place

    def forward(self, weight: torch.Tensor, indices: torch.Tensor, padding_idx: int = -1, *more: Any) -> torch.Tensor:
        """A partial sum. The arguments are those of ``aten.embedding``."""
        first = self._place * weight.shape[0]
        local = indices - first
        elsewhere = (local < 0) | (local >= weight.shape[0])
        padding = padding_idx - first if first <= padding_idx < first + weight.shape[0] else -1
        found: torch.Tensor = aten.embedding.default(weight, local.masked_fill(elsewhere, 0), padding, *more)
        return found.masked_fill(elsewhere.unsqueeze(-1), 0.0)


class CrossEntropyPart(nn.Module):
    """Cross entropy of classes that the members share out: the loss is whole, and the gradient that of own classes.

    Args:
        members: of the group.
        dtype: of the loss.
    """

    def __init__(self, members: Members, dtype: torch.dtype) -> None:
        super().__init__()
        self._members = members
        self._dtype = dtype

    def forward(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        reduction: int = 1,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        """The loss. The arguments are those of ``aten.cross_entropy_loss``: ``[N, C]`` and ``[N]``."""
        losses: torch.Tensor = _CrossEntropy.apply(x.to(self._dtype), target, ignore_index, self._members)
        if reduction == 0:
            return losses
        return losses.sum() if reduction == 2 else losses.sum() / (target != ignore_index).sum()


class Squeeze(nn.Module):
    """Takes out the dimensions of length 1, and not those that became so by a cut.

    Args:
        shape: of the whole tensor.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self._dims = [dim for dim, length in enumerate(shape) if length == 1]

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor with fewer dimensions."""
        return aten.squeeze.dims(tensor, self._dims)  # type: ignore[no-any-return]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, target: torch.Tensor, ignore_index: int, members: Members) -> torch.Tensor:
        peak = members.largest(x.amax(1))
        scaled = (
            (x - peak.unsqueeze(1)).float() if x.dtype in (torch.float16, torch.bfloat16) else x - peak.unsqueeze(1)
        )
        local = target - members.place * x.shape[1]
        here = (local >= 0) & (local < x.shape[1])
        index = local.masked_fill(~here, 0).unsqueeze(1)
        chosen = scaled.gather(1, index).squeeze(1).masked_fill(~here, 0.0)
        both = members.sum(torch.stack([scaled.exp().sum(1), chosen]))
        log_sum = both[0].log()
        ctx.save_for_backward(scaled - log_sum.unsqueeze(1), index, here, target != ignore_index)
        ctx.dtype = x.dtype
        return (log_sum - both[1]).masked_fill(target == ignore_index, 0.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        log_probability, index, here, counts = ctx.saved_tensors
        found = log_probability.exp()
        found.scatter_add_(1, index, -here.to(found.dtype).unsqueeze(1))
        return (found * (gradients[0] * counts).unsqueeze(1)).to(ctx.dtype), None, None, None


def _divided(sizes: Sequence[Any], dim: int, count: int) -> list[Any]:
    """Sizes with that of a dimension divided; -1 stays."""
    out = list(sizes)
    if isinstance(out[dim], int) and out[dim] != -1:
        out[dim] //= count
    return out


def _length(node: fx.Node, dim: int) -> int:
    return int(node.meta["val"].shape[dim])


def _operand(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _unflatten(node: fx.Node, given: Arguments, dim: int, count: int) -> Arguments | None:
    first = int(given["dim"]) % _operand(node).meta["val"].dim()
    if not first <= dim < first + len(given["sizes"]):
        return None
    return given | {"sizes": _divided(given["sizes"], dim - first, count)}


def _slice(node: fx.Node, given: Arguments, dim: int, count: int) -> Arguments | None:
    """A slice along the cut dimension is one of its sections, or all of it."""
    length = _length(_operand(node), dim)
    if int(given.get("dim", 0)) % _operand(node).meta["val"].dim() != dim or _length(node, dim) == length:
        return None
    start, end = given.get("start"), given.get("end")
    start, end = 0 if start is None else int(start), length if end is None else int(end)
    start, end = (min(n if n >= 0 else n + length, length) for n in (start, end))
    return given | {"dim": dim, "start": start // count, "end": end // count}


def _split(name: str) -> Callable[[fx.Node, Arguments, int, int], Arguments | None]:
    def rule(node: fx.Node, given: Arguments, dim: int, count: int) -> Arguments | None:
        if int(given.get("dim", 0)) % _operand(node).meta["val"].dim() != dim:
            return None
        told = given[name]
        return given | {name: told // count if isinstance(told, int) else [n // count for n in told]}

    return rule


def _convolution(node: fx.Node, given: Arguments, dim: int, count: int) -> Arguments | None:
    """Of a convolution in groups a member has some of them."""
    return given | {"groups": given["groups"] // count} if dim == 1 and given.get("groups", 1) > 1 else None


_RULES: dict[Any, Callable[[fx.Node, Arguments, int, int], Arguments | None]] = {
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.unflatten.int: _unflatten,
    aten.slice.Tensor: _slice,
    aten.split.Tensor: _split("split_size"),
    aten.split_with_sizes.default: _split("split_sizes"),
}
