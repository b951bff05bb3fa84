"""The training set-up that a plan is made for: what one optimizer step consists of."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from drlpp.errors import InputError

OPTIMIZER_STATES = {"sgd": 0, "momentum": 1, "adamw": 2}
"""Optimizer states per parameter, by optimizer."""

NO_OPTIMIZER = "none"
"""In place of an optimizer where nothing is trained (serving)."""

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""``fp32``; ``tf32``: products of float32 in TensorFloat-32; ``bf16``, ``fp16``: products in the low precision (mixed
precision where parameters are float32)."""

PRODUCT_DTYPE: dict[Precision, str] = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16", "fp16": "float16"}
"""Element type of products, by precision."""


def precision_of(dtype: str) -> Precision:
    """The precision of products of an element type; ``fp32`` for types that no precision has."""
    return next((precision for precision, name in PRODUCT_DTYPE.items() if name == dtype), "fp32")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """One optimizer step: `num_microbatches` forward and backward passes, then an update.

    Attributes:
        num_microbatches: micro-batches per optimizer step.
        optimizer: key of `OPTIMIZER_STATES`, or `NO_OPTIMIZER`.
        precision: of products, and so of what they give.
        main_parameters: parameters and activations of low precision, with float32 main parameters, gradients and states
            beside them, as Megatron-LM and DeepSpeed train; else as torch's own optimizers do.
        zero1: the devices that sum the gradient of a parameter divide its optimizer states, and with them the step of
            the optimizer (ZeRO stage 1).

    Raises:
        InputError: a value is out of range.
    """

    num_microbatches: int
    optimizer: str = "momentum"
    precision: Precision = "fp32"
    main_parameters: bool = False
    zero1: bool = False

    def __post_init__(self) -> None:
        if self.num_microbatches < 1:
            raise InputError(f"num_microbatches is {self.num_microbatches}: it must be at least 1")
        if self.optimizer not in (*OPTIMIZER_STATES, NO_OPTIMIZER):
            known = ", ".join(OPTIMIZER_STATES)
            raise InputError(f"optimizer {self.optimizer!r} is not known: use one of {known}")
        if self.precision not in get_args(Precision):
            raise InputError(f"precision {self.precision!r} is not known: use one of {', '.join(get_args(Precision))}")

    @property
    def in_low_precision(self) -> bool:
        """Products are of 16 bits."""
        return self.precision in ("bf16", "fp16")

    @property
    def trains(self) -> bool:
        """There are gradients and an optimizer."""
        return self.optimizer != NO_OPTIMIZER
