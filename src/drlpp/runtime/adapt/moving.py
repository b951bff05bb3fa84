"""Puts a pipeline under another plan between two steps: only what changes its place travels.

Every rank knows from the two plans which tensors it holds and is to hold. A parameter goes to each rank that lacks it,
with the states of its optimizer, from a rank that holds it (`drlpp.cost.moves.source`). Until the new pipeline stands,
the old one is whole: where a rank cannot build its part, all go on as before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from drlpp.cost.moves import source
from drlpp.errors import DrlppError, InputError
from drlpp.plan import Plan
from drlpp.runtime.pipeline import Pipeline

MakeOptimizer = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
Build = Callable[[Plan, Mapping[str, torch.Tensor]], Pipeline]
"""A plan and the values of what this rank is to hold -> the pipeline."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor that goes from one rank to others: what it is, and its form."""

    name: str
    state: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype


def moved(
    old: Pipeline, optimizer: torch.optim.Optimizer, plan: Plan, build: Build, make_optimizer: MakeOptimizer
) -> tuple[Pipeline, torch.optim.Optimizer]:
    """The pipeline and the optimizer under another plan. Called on every rank, between two steps. The old pipeline is
    closed.

    Raises:
        InputError: on every rank: a rank cannot run its part of the plan. The old pipeline is as it was.
    """
    here = dist.get_rank()
    before, after = old.holders_by_rank(old.plan), old.holders_by_rank(plan)
    states = {n: dict(optimizer.state.get(p, {})) for n, p in old.named_parameters()}
    mine = {n: t for n, t in old.tensors().items() if here in after.get(n, ())}
    kept = {n: dict(s) for n, s in states.items() if n in mine}
    pieces, values = _announced(old, states, before)
    sends: list[tuple[_Piece, int, int]] = []
    for piece in pieces:
        for dst in after[piece.name]:
            if dst not in before[piece.name]:
                sends.append((piece, source(before[piece.name], dst, plan.cluster), dst))
    for piece, tensor in _exchanged(old, states, sends):
        if piece.state is None:
            mine[piece.name] = tensor
        else:
            kept.setdefault(piece.name, {})[piece.state] = tensor
    for name, more in values.items():  # states that are no tensors are the same wherever they are
        if here in after[name]:
            kept[name] = {**more, **kept.get(name, {})}
    problem, pipeline = "", None
    try:
        pipeline = build(plan, mine)
    except DrlppError as error:
        problem = str(error)
    told = [problem] * dist.get_world_size()
    dist.all_gather_object(told, problem)
    if pipeline is None or any(told):
        if pipeline is not None:
            pipeline.close()
        raise InputError(next(filter(None, told)))
    pipeline.steps_done = old.steps_done
    new = make_optimizer(list(pipeline.parameters()))
    for group, was in zip(new.param_groups, optimizer.param_groups, strict=True):
        group.update({k: v for k, v in was.items() if k != "params"})
    for name, parameter in pipeline.named_parameters():
        if name in kept:
            new.state[parameter] = kept[name]
    old.close()
    return pipeline, new


def _announced(
    old: Pipeline, states: Mapping[str, Mapping[str, Any]], before: Mapping[str, Sequence[int]]
) -> tuple[list[_Piece], dict[str, dict[str, Any]]]:
    """All tensors of the model with their states, and states that are no tensors; the first holder tells each."""
    here = dist.get_rank()
    pieces: list[_Piece] = []
    values: dict[str, dict[str, Any]] = {}
    for name, tensor in old.tensors().items():
        if name in before and before[name][0] == here:
            pieces.append(_Piece(name, None, tuple(tensor.shape), tensor.dtype))
            for key, value in states.get(name, {}).items():
                if isinstance(value, torch.Tensor):
                    pieces.append(_Piece(name, key, tuple(value.shape), value.dtype))
                else:
                    values.setdefault(name, {})[key] = value
    told: list[tuple[list[_Piece], dict[str, dict[str, Any]]]] = [(pieces, values)] * dist.get_world_size()
    dist.all_gather_object(told, (pieces, values))
    merged: dict[str, dict[str, Any]] = {}
    for _, theirs in told:
        merged |= theirs
    return [p for theirs, _ in told for p in theirs], merged


def _exchanged(
    old: Pipeline, states: Mapping[str, Mapping[str, Any]], sends: Sequence[tuple[_Piece, int, int]]
) -> list[tuple[_Piece, torch.Tensor]]:
    """Sends and receives pieces; returns those that this rank gets. A state that was on the CPU is there again."""
    here, device = dist.get_rank(), old.torch_device
    held = old.tensors()
    operations: list[dist.P2POp] = []
    got: list[tuple[_Piece, torch.Tensor]] = []
    keep: list[torch.Tensor] = []
    for piece, src, dst in sends:
        if here == src:
            value = held[piece.name] if piece.state is None else states[piece.name][piece.state]
            data = _bytes(value.detach().to(device).contiguous())
            if data.numel():
                keep.append(data)
                operations.append(dist.P2POp(dist.isend, data, dst))
        elif here == dst:
            tensor = torch.empty(piece.shape, dtype=piece.dtype, device=device)
            got.append((piece, tensor))
            if tensor.numel():
                operations.append(dist.P2POp(dist.irecv, _bytes(tensor), src))
    if operations:
        for work in dist.batch_isend_irecv(operations):
            work.wait()
    scalar = torch.device("cpu")
    return [(p, t.to(scalar) if p.state is not None and not p.shape else t) for p, t in got]


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
