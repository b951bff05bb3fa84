"""Tensors of a group of ranks on their way from one placement to another, forward and back.

A tensor is whole on every member, cut along a dimension (`Cut`), or a partial sum. Each move has a counterpart for the
gradient: where a whole tensor is read by a divided op, each member has a part of the sum that is its gradient, and
these are summed once for all its readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from drlpp.capture.cuts import PARTIAL, Cut
from drlpp.runtime.transfers.waiting import FIRST_TIMEOUT_S, wait_for_all

Placement = Cut | None
"""How a tensor is on the members; None: whole."""


class Members:
    """The ranks of a group, seen from one of them.

    Args:
        group: process group; None where nothing is computed (to look at shapes).
        count: of its members.
        place: of this rank among them.

    Attributes:
        timeout_s: how long the others are waited for.
    """

    def __init__(self, group: dist.ProcessGroup | None, count: int, place: int) -> None:
        self.group = group
        self.count = count
        self.place = place
        self.timeout_s = FIRST_TIMEOUT_S

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the tensors of all members."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._wait(dist.all_reduce(_real(total), group=self.group, async_op=True), total)
        return total

    def largest(self, tensor: torch.Tensor) -> torch.Tensor:
        """Element by element, the largest of the tensors of all members."""
        most = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._wait(dist.all_reduce(most, dist.ReduceOp.MAX, group=self.group, async_op=True), most)
        return most

    def move(self, tensor: torch.Tensor, before: Placement, after: Placement) -> torch.Tensor:
        """The tensor in another placement; nothing is recorded for the gradient."""
        if before == after:
            return tensor.view_as(tensor)
        if before is None:
            return self.part(tensor, _cut(after)).contiguous()
        if before == PARTIAL:
            return self.sum(tensor) if after is None else self._sum_of_parts(tensor, _cut(after))
        whole = self._joined(tensor, before)
        return whole if after is None else self.part(whole, _cut(after)).contiguous()

    def part(self, tensor: torch.Tensor, cut: Cut) -> torch.Tensor:
        """What this member has of a whole tensor."""
        return part(tensor, cut, self.count, self.place)

    def _joined(self, tensor: torch.Tensor, cut: Cut) -> torch.Tensor:
        mine = _real(tensor.detach().contiguous())
        parts = [torch.empty_like(mine) for _ in range(self.count)]
        self._wait(dist.all_gather(parts, mine, group=self.group, async_op=True), mine)
        found = [torch.view_as_complex(p) for p in parts] if tensor.is_complex() else parts
        return joined(found, cut)

    def _sum_of_parts(self, tensor: torch.Tensor, cut: Cut) -> torch.Tensor:
        parts = [_real(part(tensor.detach(), cut, self.count, place).contiguous()) for place in range(self.count)]
        mine = torch.empty(part(tensor, cut, self.count, 0).shape, dtype=tensor.dtype, device=tensor.device)
        self._wait(dist.reduce_scatter(_real(mine), parts, group=self.group, async_op=True), mine)
        return mine

    def _wait(self, work: dist.Work | None, tensor: torch.Tensor) -> None:
        wait_for_all(work, "an exchange within a group", self.timeout_s, tensor.device)


class Move(nn.Module):
    """Brings a tensor from one placement to another, and its gradient back.

    Args:
        members: of the group.
        before, after: placements of the tensor; `after` is not a partial sum.
        divided: who reads it is divided, so that the gradient of a whole tensor is a partial sum.
    """

    def __init__(self, members: Members, before: Placement, after: Placement, *, divided: bool) -> None:
        super().__init__()
        self._members = members
        self._before = before
        self._after = after
        self._gradient = after if after is not None else PARTIAL if divided else None

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """Runs the move."""
        if not tensor.is_floating_point() and not tensor.is_complex():
            return self._members.move(tensor, self._before, self._after)
        out: torch.Tensor = _Moved.apply(tensor, self._members, self._before, self._after, self._gradient)
        return out


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tensor: torch.Tensor, members: Members, before: Placement, after: Placement, gradient: Placement
    ) -> torch.Tensor:
        ctx.back = members, gradient, None if before == PARTIAL else before
        return members.move(tensor, before, after)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        members, gradient, back = ctx.back
        return members.move(gradients[0], gradient, back), None, None, None, None


class Divided(nn.Module):
    """A whole parameter on its way to an undivided op, where its gradient is to be a partial sum as that of others.

    Args:
        members: of the group.
    """

    def __init__(self, members: Members) -> None:
        super().__init__()
        self._count = members.count

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor; its gradient is divided by the number of members."""
        out: torch.Tensor = _Divided.apply(tensor, self._count)
        return out


class _Divided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, count: int) -> torch.Tensor:
        ctx.count = count
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradients[0] / ctx.count, None


class Parted(nn.Module):
    """The part of a whole parameter or constant that a divided op reads; the gradient is a partial sum.

    Args:
        members: of the group.
        cut: how it is read.
    """

    def __init__(self, members: Members, cut: Cut) -> None:
        super().__init__()
        self._members = members
        self._cut = cut

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """The part of this member."""
        return self._members.part(tensor, self._cut)


def part(tensor: torch.Tensor, cut: Cut, count: int, place: int) -> torch.Tensor:
    """One of `count` equal parts of a tensor; with sections, the parts of all sections behind each other."""
    if not cut.sections:
        length = tensor.shape[cut.dim] // count
        return tensor.narrow(cut.dim, place * length, length)
    repeated = tensor.unflatten(cut.dim, (-1, sum(cut.sections)))
    pieces = [
        section.narrow(cut.dim + 1, place * (section.shape[cut.dim + 1] // count), section.shape[cut.dim + 1] // count)
        for section in repeated.split(list(cut.sections), cut.dim + 1)
    ]
    whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, cut.dim + 1)
    return whole.flatten(cut.dim, cut.dim + 1)


def joined(parts: Sequence[torch.Tensor], cut: Cut) -> torch.Tensor:
    """The whole of equal parts: the inverse of `part`."""
    if not cut.sections:
        return torch.cat(list(parts), cut.dim)
    lengths = [length // len(parts) for length in cut.sections]
    pieces = [p.unflatten(cut.dim, (-1, sum(lengths))).split(lengths, cut.dim + 1) for p in parts]
    sections = [torch.cat(section, cut.dim + 1) for section in zip(*pieces, strict=True)]
    return torch.cat(sections, cut.dim + 1).flatten(cut.dim, cut.dim + 1)


def _cut(placement: Placement) -> Cut:
    if placement is None or placement == PARTIAL:
        raise RuntimeError(f"a tensor cannot be moved to {placement}")
    return placement


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
