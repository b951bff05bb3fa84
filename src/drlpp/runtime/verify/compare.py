"""Compares what the ranks of a pipeline computed with the single-process run.

The error of a tensor is ``norm(pipeline - reference) / max(norm(reference), floor)``. The floor is that of a tensor of
the same size whose elements are a tenth of the root mean square of all elements of its kind: tensors that are zero but
for rounding (the gradient of a bias in front of a batch norm) are measured against it. Integers have to be equal.

With AdamW an update does not shrink with its gradient: where the gradient is rounding noise, the update is noise of
full size. Elements whose reference gradient is below the floor are left out of the comparison of updated parameters.
After the first step the noise is in the gradients of all elements, and a large learning rate makes much of it. Where
parameters and the statistics in buffers alone differ, a second single-process run, whose gradients get rounding of the
size that was measured, says how much that is (`amplified`): they may differ by as much.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from drlpp.runtime.verify.reference import TrainingState
from drlpp.runtime.verify.rounding import FLOOR

TOLERANCE = {"fp32": 1e-5, "bf16": 5e-2}
"""Bound of the relative error by precision. bfloat16 has 8 bits: where gradients of a value are added up they are
rounded, and the order differs from that of one process."""
LEAST_ROUNDING = 3e-7
Quantity = Literal["loss", "gradient", "parameter", "buffer"]
_VALUES: tuple[Quantity, ...] = ("parameter", "buffer")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The largest error of a quantity.

    Attributes:
        quantity: what was compared.
        name: of the tensor, or the step of the loss.
        error: relative; infinite if the pipeline has no such tensor or it is not finite.
        rank: that has it; -1 for losses.
        compared: number of tensors (copies on several ranks count each).
    """

    quantity: Quantity
    name: str
    error: float
    rank: int
    compared: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The verdict.

    Attributes:
        passed: every error is at most `tolerance`.
        tolerance: relative.
        differences: the worst of each quantity.
        amplified: what the optimizer makes of rounding in parameters and buffers of one process, where that was asked.
    """

    passed: bool
    tolerance: float
    differences: tuple[Difference, ...]
    amplified: float = 0.0

    def describe(self) -> str:
        """One line for people."""
        parts = [f"{d.quantity} {d.error:.1e} ({d.name})" for d in self.differences]
        verdict = "equal to single-process training" if self.passed else "NOT equal to single-process training"
        text = f"{verdict} within {self.tolerance:g}: worst relative differences: {', '.join(parts)}"
        if not self.amplified:
            return text
        return (
            f"{text}; of rounding as in these gradients AdamW makes {self.amplified:.1e} in the values of one "
            "process, too (its updates do not shrink with gradients): a smaller learning rate shows less of it"
        )

    @property
    def values_alone(self) -> bool:
        """Losses and gradients are equal, and parameters or buffers are not."""
        different = {d.quantity for d in self.differences if d.error > self.tolerance}
        return bool(different) and different <= set(_VALUES)

    @property
    def rounding(self) -> float:
        """The relative difference of gradients; not below that of a few operations in float32."""
        return max(LEAST_ROUNDING, *(d.error for d in self.differences if d.quantity == "gradient"))

    def allowing(self, noisy: Verification) -> Verification:
        """The verdict where parameters and buffers may differ by twice what they do in one process with rounding in its
        gradients.

        Args:
            noisy: that process, compared with the same reference.
        """
        errors = {d.quantity: d.error for d in noisy.differences if d.quantity in _VALUES}
        passed = all(d.error <= max(self.tolerance, 2 * errors.get(d.quantity, 0.0)) for d in self.differences)
        return dataclasses.replace(self, passed=passed, amplified=max(errors.values(), default=0.0))


def compare(
    ranks: Sequence[TrainingState],
    reference: TrainingState,
    parameters: Sequence[str],
    *,
    adaptive: bool,
    tolerance: float = TOLERANCE["fp32"],
) -> Verification:
    """Compares the states of all ranks with the reference.

    Args:
        ranks: what each rank holds.
        reference: what a single process got.
        parameters: names of the parameters among the tensors; the others are buffers.
        adaptive: the optimizer's update does not shrink with the gradient (AdamW).
        tolerance: relative.
    """
    names = set(parameters)
    differences = [
        _worst_loss(ranks[0].losses, reference.losses),
        _worst("gradient", [r.gradients for r in ranks], reference.gradients, {}),
    ]
    settled = _settled(reference.gradients) if adaptive else {}
    kinds: tuple[tuple[Quantity, bool], ...] = (("parameter", True), ("buffer", False))
    for quantity, wanted in kinds:
        theirs = [{n: t for n, t in r.tensors.items() if (n in names) == wanted} for r in ranks]
        ours = {n: t for n, t in reference.tensors.items() if (n in names) == wanted}
        if ours:
            differences.append(_worst(quantity, theirs, ours, settled))
    return Verification(
        passed=all(d.error <= tolerance for d in differences), tolerance=tolerance, differences=tuple(differences)
    )


def _worst_loss(losses: Sequence[float], reference: Sequence[float]) -> Difference:
    errors = [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(losses, reference, strict=True)]
    errors = [e if math.isfinite(e) else math.inf for e in errors]
    step = max(range(len(errors)), key=errors.__getitem__)
    return Difference(quantity="loss", name=f"step {step}", error=errors[step], rank=-1, compared=len(errors))


def _worst(
    quantity: Quantity,
    ranks: Sequence[Mapping[str, torch.Tensor]],
    reference: Mapping[str, torch.Tensor],
    elements: Mapping[str, torch.Tensor],
) -> Difference:
    scale = FLOOR * _root_mean_square(reference)
    worst, compared = Difference(quantity=quantity, name="-", error=0.0, rank=-1, compared=0), 0
    for name, wanted in reference.items():
        chosen = elements.get(name, ...)
        copies = [(rank, held[name]) for rank, held in enumerate(ranks) if name in held]
        errors = [(_error(t[chosen], wanted[chosen], scale), rank) for rank, t in copies] or [(math.inf, -1)]
        compared += len(copies)
        error, rank = max(errors)
        if error > worst.error or worst.name == "-":
            worst = Difference(quantity=quantity, name=name, error=error, rank=rank, compared=0)
    return dataclasses.replace(worst, compared=compared)


def _error(tensor: torch.Tensor, wanted: torch.Tensor, scale: float) -> float:
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(tensor, wanted) else math.inf
    floor = scale * math.sqrt(wanted.numel())
    norm = float(wanted.double().norm())
    error = float((tensor.double() - wanted.double()).norm()) / max(norm, floor, 1e-30)
    return error if math.isfinite(error) else math.inf


def _root_mean_square(tensors: Mapping[str, torch.Tensor]) -> float:
    floats = [t for t in tensors.values() if t.is_floating_point()]
    count = sum(t.numel() for t in floats)
    return math.sqrt(sum(float(t.double().square().sum()) for t in floats) / count) if count else 0.0


def _settled(gradients: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Per tensor, where its gradient is more than rounding noise (booleans of its shape)."""
    floor = FLOOR * _root_mean_square(gradients)
    return {name: g.abs() >= floor for name, g in gradients.items()}
