"""FLOP of recorded operator calls, from the shapes of their inputs and outputs.

Covers matrix products, convolutions and attention, where nearly all FLOP of a network are; everything else counts as
bytes only. One multiplication and one addition are two FLOP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Shape = tuple[int, ...]
Shapes = Sequence[Shape]


def known_flop(name: str, inputs: Shapes, outputs: Shapes) -> float | None:
    """FLOP of a call of an operator, or None if there is no rule for it (then its nested calls may have one)."""
    rule = _RULES.get(name)
    if rule is None and "scaled_dot_product" in name and not name.endswith("scaled_dot_product_attention"):
        rule = _attention_backward if name.endswith("backward") else _attention
    if rule is None:
        return None
    try:
        return rule(inputs, outputs)
    except (IndexError, ValueError):  # a shape was not recorded
        return None


def _product(a: Shape, b: Shape) -> float:
    return 2.0 * math.prod(a) * (b[-1] if len(b) > 1 else 1)


def _linear(inputs: Shapes, outputs: Shapes) -> float:
    return 2.0 * math.prod(inputs[0]) * (inputs[1][0] if len(inputs[1]) > 1 else 1)


def _convolution(inputs: Shapes, outputs: Shapes) -> float:
    return 2.0 * math.prod(outputs[0]) * math.prod(inputs[1][1:])


def _transposed_convolution(inputs: Shapes, outputs: Shapes) -> float:
    return 2.0 * math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _convolution_backward(inputs: Shapes, outputs: Shapes) -> float:
    grad, x, weight = inputs[:3]
    per_weight = grad if grad[1] == weight[0] else x  # else it is a transposed convolution
    return 4.0 * math.prod(per_weight) * math.prod(weight[1:])


def _attention(inputs: Shapes, outputs: Shapes) -> float:
    q, k, v = inputs[:3]
    return 2.0 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_backward(inputs: Shapes, outputs: Shapes) -> float:
    q, k, v = inputs[1:4]
    return 2.0 * math.prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])  # scores again, and four gradients


_RULES: dict[str, Callable[[Shapes, Shapes], float]] = {
    "aten::mm": lambda i, o: _product(i[0], i[1]),
    "aten::bmm": lambda i, o: _product(i[0], i[1]),
    "aten::addmm": lambda i, o: _product(i[1], i[2]),
    "aten::baddbmm": lambda i, o: _product(i[1], i[2]),
    "aten::matmul": lambda i, o: _product(i[0], i[1]),
    "aten::linear": _linear,
    "aten::scaled_dot_product_attention": _attention,
    "aten::convolution_backward": _convolution_backward,
    **{f"aten::conv{d}d": _convolution for d in (1, 2, 3)},
    **{f"aten::conv_transpose{d}d": _transposed_convolution for d in (1, 2, 3)},
}
