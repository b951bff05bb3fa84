"""The result of an evaluation: the loss, and the outputs of the micro-batches as those of one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from drlpp.capture.variants import Evaluation
from drlpp.errors import InputError


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What the model gives in eval mode.

    Attributes:
        loss: of the batch, on every rank; None if the batch has no target.
        outputs: what the user's module returns for the whole batch; None on ranks that were not to get it.
    """

    loss: torch.Tensor | None
    outputs: Any


def merged_outputs(
    parts: Sequence[tuple[Evaluation, Mapping[str, torch.Tensor]]], samples: Sequence[int], fractions: Sequence[float]
) -> Any:
    """The outputs of the micro-batches as one.

    Tensors with one entry per sample along their first dimension are joined; numbers (a loss that the module returns)
    are averaged, as the loss of the batch is.

    Args:
        parts: per micro-batch, the model and the leaves of its output by name.
        samples, fractions: per micro-batch.

    Raises:
        InputError: an output is of another kind, and there are several micro-batches.
    """
    evaluation = parts[0][0]
    if len(parts) == 1:
        return evaluation.output(parts[0][1])
    merged = {}
    for position, name in enumerate(evaluation.leaves):
        if name is not None:
            leaves = [tensors[_name(e, position)] for e, tensors in parts]
            merged[name] = _merged(leaves, samples, fractions, position)
    return evaluation.output(merged)


def _name(evaluation: Evaluation, position: int) -> str:
    name = evaluation.leaves[position] if position < len(evaluation.leaves) else None
    if name is None:
        raise InputError("the micro-batches have outputs of different forms: evaluate them one by one")
    return name


def _merged(
    leaves: Sequence[torch.Tensor], samples: Sequence[int], fractions: Sequence[float], position: int
) -> torch.Tensor:
    if all(t.dim() == 0 and (t.is_floating_point() or t.is_complex()) for t in leaves):
        known = [(t, f) for t, f in zip(leaves, fractions, strict=True) if f]
        return torch.stack([t * f for t, f in known]).sum(0)
    ratios = {t.shape[0] / s if t.dim() else 0.0 for t, s in zip(leaves, samples, strict=True)}
    several = max(samples) > 1
    if len(ratios) == 1 and (ratios == {1.0} or (several and min(ratios) > 1 and min(ratios).is_integer())):
        return torch.cat(list(leaves))
    raise InputError(
        f"output {position} of the model has shape {list(leaves[0].shape)} for {samples[0]} samples: it "
        "cannot be joined with those of the other micro-batches; evaluate them one by one"
    )
