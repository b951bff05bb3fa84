"""Micro-batches: drawn from the example inputs, or cut from a batch of the user.

A drawn micro-batch has the shapes and types of the example. Floats are normal with the example's mean and standard
deviation; integers are drawn from the values that the example has, so they are legal wherever the example is. Inputs
that carry structure rather than data stay as they are: booleans, tensors of one repeated value, and floats that are not
all finite (masks). What is drawn depends on (seed, step, micro-batch, input) only, so every rank draws what it needs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from drlpp.errors import InputError
from drlpp.seeds import derived_seed

Microbatch = Mapping[str, torch.Tensor]
"""Input name -> tensor."""


def draw(example: Mapping[str, torch.Tensor], seed: int, step: int, microbatch: int) -> Microbatch:
    """Draws one micro-batch (see the module's docstring)."""
    return {name: _like(t, derived_seed(seed, "input", step, microbatch, name)) for name, t in example.items()}


def _like(example: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    flat = example.detach().cpu().reshape(-1)
    constant = flat.numel() < 2 or bool((flat == flat[0]).all())
    if constant or flat.dtype == torch.bool or flat.is_complex():
        return example.detach().clone()
    if flat.is_floating_point():
        if not flat.isfinite().all():
            return example.detach().clone()
        values = flat.double()
        noise = torch.randn(flat.numel(), generator=generator, dtype=torch.float64)
        drawn = noise * values.std() + values.mean()
    else:
        drawn = flat[torch.randint(flat.numel(), (flat.numel(),), generator=generator)]
    return drawn.to(example.dtype).reshape(example.shape).to(example.device)


def split_batch(
    batch: Microbatch | Sequence[Microbatch],
    example: Mapping[str, torch.Tensor],
    num_microbatches: int,
    needed: Collection[str],
) -> list[Microbatch]:
    """Cuts a batch into micro-batches along the first dimension; a list of micro-batches is checked and taken as it is.

    A tensor that has the shape of the example already is given to every micro-batch. Inputs that are not `needed` may
    be left out.

    Raises:
        InputError: a wrong number of micro-batches, an input that is missing or not known, or a wrong shape or type.
    """
    if not isinstance(batch, Mapping):
        parts = list(batch)
        if len(parts) != num_microbatches:
            raise InputError(f"{len(parts)} micro-batches were given: the plan runs {num_microbatches} per step")
        for m, part in enumerate(parts):
            _check(part, example, needed, f"micro-batch {m}")
        return parts
    _check_names(batch, example, needed, "the batch")
    pieces: dict[str, Sequence[torch.Tensor]] = {}
    for name, tensor in batch.items():
        shape = example[name].shape
        if tensor.shape == shape:
            pieces[name] = [tensor] * num_microbatches
        elif shape and tensor.shape == (shape[0] * num_microbatches, *shape[1:]):
            pieces[name] = tensor.split(shape[0])
        else:
            raise InputError(
                f"input {name!r} of the batch has shape {list(tensor.shape)}: it must hold {num_microbatches} "
                f"micro-batches of shape {list(shape)} along the first dimension"
            )
    parts = [{name: piece[m] for name, piece in pieces.items()} for m in range(num_microbatches)]
    _check(parts[0], example, needed, "the batch")
    return parts


def _check_names(part: Microbatch, example: Mapping[str, torch.Tensor], needed: Collection[str], where: str) -> None:
    if unknown := sorted(set(part) - set(example)):
        raise InputError(f"{where} has input {unknown[0]!r}, which the model does not have: it has {sorted(example)}")
    if missing := sorted(set(needed) - set(part)):
        raise InputError(f"{where} has inputs {sorted(part)}: {missing[0]!r} is missing, which this rank reads")


def _check(part: Microbatch, example: Mapping[str, torch.Tensor], needed: Collection[str], where: str) -> None:
    _check_names(part, example, needed, where)
    for name, tensor in part.items():
        wanted = example[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise InputError(
                f"input {name!r} of {where} is {tensor.dtype} {list(tensor.shape)}: the model was captured for "
                f"{wanted.dtype} {list(wanted.shape)}"
            )
