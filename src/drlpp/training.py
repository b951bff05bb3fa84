"""The training set-up that a plan is made for: what one optimizer step consists of."""

from __future__ import annotations

import dataclasses

from drlpp.errors import InputError

OPTIMIZER_STATE_FACTOR = {"sgd": 0.0, "momentum": 1.0, "adamw": 2.0}
"""Bytes of optimizer state per byte of parameter, by optimizer (float32 parameters and states)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """One optimizer step: `num_microbatches` forward and backward passes, then an update.

    Attributes:
        num_microbatches: micro-batches per optimizer step.
        optimizer: key of `OPTIMIZER_STATE_FACTOR`.

    Raises:
        InputError: a value is out of range.
    """

    num_microbatches: int
    optimizer: str = "momentum"

    def __post_init__(self) -> None:
        if self.num_microbatches < 1:
            raise InputError(f"num_microbatches is {self.num_microbatches}: it must be at least 1")
        if self.optimizer not in OPTIMIZER_STATE_FACTOR:
            known = ", ".join(OPTIMIZER_STATE_FACTOR)
            raise InputError(f"optimizer {self.optimizer!r} is not known: use one of {known}")

    @property
    def bytes_per_param_byte(self) -> float:
        """Resident bytes per parameter byte: the parameter, its gradient and the optimizer state."""
        return 2.0 + OPTIMIZER_STATE_FACTOR[self.optimizer]
