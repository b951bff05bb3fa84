"""What counts as equal."""

from __future__ import annotations

import math

import torch

from drlpp.runtime.verify.compare import Verification, compare
from drlpp.runtime.verify.reference import TrainingState

GRADIENTS = {"w": torch.randn(10, 10), "b": torch.randn(10) * 1e-9}
TENSORS = {"w": torch.randn(10, 10), "b": torch.zeros(10), "mean": torch.randn(10), "count": torch.tensor(3)}
REFERENCE = TrainingState((1.0, 0.5), GRADIENTS, TENSORS)


def verdict(adaptive: bool = False, **changes: object) -> Verification:
    state = {"losses": (1.0, 0.5), "gradients": GRADIENTS, "tensors": TENSORS} | changes
    return compare([TrainingState(**state)], REFERENCE, ["w", "b"], adaptive=adaptive)  # type: ignore[arg-type]


def error(result: Verification, quantity: str) -> tuple[str, float]:
    (found,) = [d for d in result.differences if d.quantity == quantity]
    return found.name, found.error


def test_equal() -> None:
    result = verdict()
    assert result.passed
    assert result.describe().startswith("equal to single-process training within 1e-05: worst relative")
    assert [d.quantity for d in result.differences] == ["loss", "gradient", "parameter", "buffer"]


def test_rounding_noise_passes_and_real_differences_do_not() -> None:
    assert verdict(gradients={**GRADIENTS, "b": torch.randn(10) * 1e-9}).passed
    wrong = verdict(gradients={**GRADIENTS, "w": GRADIENTS["w"] * 1.001})
    assert not wrong.passed
    assert error(wrong, "gradient") == ("w", error(wrong, "gradient")[1])
    assert 0.9e-3 < error(wrong, "gradient")[1] < 1.1e-3


def test_losses_counters_and_absent_tensors() -> None:
    assert error(verdict(losses=(1.0, 0.6)), "loss")[0] == "step 1"
    assert error(verdict(losses=(math.nan, 0.5)), "loss") == ("step 0", math.inf)
    assert error(verdict(tensors={**TENSORS, "count": torch.tensor(4)}), "buffer") == ("count", math.inf)
    assert error(verdict(tensors={n: t for n, t in TENSORS.items() if n != "w"}), "parameter") == ("w", math.inf)
    assert error(verdict(gradients={**GRADIENTS, "w": GRADIENTS["w"] * math.nan}), "gradient") == ("w", math.inf)


def test_copies_on_several_ranks() -> None:
    good = TrainingState((1.0, 0.5), GRADIENTS, TENSORS)
    bad = TrainingState((1.0, 0.5), GRADIENTS, {**TENSORS, "w": TENSORS["w"] + 1})
    result = compare([good, bad], REFERENCE, ["w", "b"], adaptive=False)
    (parameter,) = [d for d in result.differences if d.quantity == "parameter"]
    assert (parameter.rank, parameter.compared) == (1, 4)
    assert not result.passed


def test_adaptive_updates_of_noise_are_left_out() -> None:
    noise = {**TENSORS, "b": torch.randn(10) * 0.01}
    assert not verdict(tensors=noise).passed
    assert verdict(adaptive=True, tensors=noise).passed
    assert not verdict(adaptive=True, tensors={**TENSORS, "w": TENSORS["w"] * 1.01}).passed


def test_parameters_may_differ_by_what_the_optimizer_makes_of_rounding() -> None:
    result = verdict(adaptive=True, tensors={**TENSORS, "w": TENSORS["w"] * (1 + 1e-4)})
    assert result.values_alone
    assert result.rounding == 3e-7
    noisy = verdict(adaptive=True, tensors={**TENSORS, "w": TENSORS["w"] * (1 + 8e-5)})
    allowed = result.allowing(noisy)
    assert allowed.passed
    assert allowed.describe().startswith("equal to single-process training within 1e-05")
    assert "AdamW makes" in allowed.describe()
    assert not result.allowing(verdict(adaptive=True)).passed
    wrong = verdict(adaptive=True, gradients={**GRADIENTS, "w": GRADIENTS["w"] * 1.001})
    assert not wrong.values_alone
    assert not wrong.allowing(noisy).passed


def test_statistics_may_differ_by_what_the_optimizer_makes_of_rounding() -> None:
    """A bias in front of a batch norm walks at random under AdamW, and the running mean walks with it."""
    result = verdict(adaptive=True, tensors={**TENSORS, "mean": TENSORS["mean"] * 1.01})
    assert result.values_alone
    noisy = verdict(adaptive=True, tensors={**TENSORS, "mean": TENSORS["mean"] * 1.006})
    assert result.allowing(noisy).passed
    assert not result.allowing(verdict(adaptive=True)).passed
    counted = verdict(adaptive=True, tensors={**TENSORS, "count": torch.tensor(4)})
    assert not counted.allowing(noisy).passed
