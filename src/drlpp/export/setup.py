"""The training set-up of a plan in words that engines share: precision and optimizer."""

from __future__ import annotations

from typing import Literal

from drlpp.plan import Plan

Precision = Literal["fp32", "bf16", "fp16"]
_OF_DTYPE: dict[str, Precision] = {"bfloat16": "bf16", "float16": "fp16"}

SGD_MOMENTUM = {"sgd": 0.0, "momentum": 0.9}
"""Optimizers of a plan that are SGD elsewhere, with their momentum; ``adamw`` is AdamW."""


def precision(plan: Plan) -> Precision:
    """The precision of products: that of the plan, or of a model that is of low precision itself."""
    if plan.training.precision == "bf16" or plan.training.precision == "fp16":
        return plan.training.precision
    return _OF_DTYPE.get(plan.graph.dtype, "fp32")
