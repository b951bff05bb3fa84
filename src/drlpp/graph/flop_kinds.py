"""FLOP of an operator by its kind: for operators that have no formula of their own, from their names and shapes.

Libraries bring kernels of their own (grouped products of experts, attention, scans), whose cost is that of their kind.
The kind shows in the name, the size in the shapes of inputs and outputs. One multiplication and one addition are two
FLOP. A kernel of the backward pass makes two gradients, each at the cost of the forward pass; attention computes its
scores once more.

Left out: kinds whose FLOP depend on values (sparse products), and operators that only move or compare.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

Shape = tuple[int, ...]
Shapes = Sequence[Shape]

_BACKWARD = re.compile(r"backward|_bwd|_grad$|^bwd_")
_SCAN_FLOP = 9.0
"""Per element and state of a selective scan: discretise, update, read out (Gu and Dao, 2023, appendix)."""


def flop_of_kind(name: str, inputs: Shapes, outputs: Shapes) -> float | None:
    """FLOP of a call, or None if the name shows no kind with a formula, or the shapes do not fit it.

    Args:
        name: of the operator, with or without its namespace (``transformers::grouped_mm_fallback``).
        inputs: shapes of the tensor arguments, in order; lists of tensors one by one.
        outputs: shapes of the results.
    """
    short = re.split(r"::|\.", name)[-1].lower()
    backward = _BACKWARD.search(short) is not None
    for pattern, formula, backward_formula in _KINDS:
        if pattern.search(short):
            try:
                return (backward_formula if backward else formula)(short, inputs, outputs)
            except (IndexError, ValueError, ZeroDivisionError):  # a shape is not what the kind has
                return None
    return None


def grouped_product(inputs: Shapes, outputs: Shapes) -> float:
    """Rows ``[S, K]`` times a matrix ``[G, K, N]`` for each group of rows: every row meets one matrix.

    Two matrices ``[M, S]`` and ``[S, N]`` make ``[G, M, N]``, the gradient of the weights; two batches are multiplied
    one by one.
    """
    first, second = [s for s in inputs if len(s) in (2, 3)][:2]
    if len(first) == len(second):
        return 2.0 * math.prod(first) * second[-1]
    rows, weight = (first, second) if len(first) == 2 else (second, first)
    each = math.prod(weight[1:])
    contracted = rows[-1] if rows is first else rows[0]
    return 2.0 * math.prod(rows) / contracted * each


def attention(inputs: Shapes, tokens: int) -> float:
    """Scores and weighted sum of queries, keys and values; `tokens` is the axis of their tokens."""
    q, k, v = inputs[:3]
    if len(q) < 4 or len(k) < 4:
        raise ValueError("sequences of unequal length are packed: their FLOP depend on values")
    return 2.0 * math.prod(q[:-1]) * k[tokens] * (q[-1] + v[-1])


def _tokens(name: str) -> int:
    """ATen's fused products have ``[N, H, S, D]``; flash attention and its like ``[N, S, H, D]``."""
    return -2 if "scaled_dot_product" in name or "sdpa" in name else 1


def _product(name: str, inputs: Shapes, outputs: Shapes) -> float:
    """Every element of the result sums over the last extent of the operand."""
    operands = [s for s in inputs if s][1 if re.search(r"add.?mm|addmv", name) else 0 :]
    return 2.0 * math.prod(outputs[0]) * operands[0][-1]


def _product_backward(name: str, inputs: Shapes, outputs: Shapes) -> float:
    gradient, operand = [s for s in inputs if s][:2]
    return 4.0 * math.prod(gradient) * operand[-1]


def _weight(inputs: Shapes) -> Shape:
    matrices = [s for s in inputs[1:] if len(s) >= 2]
    return matrices[0]


def _convolution(name: str, inputs: Shapes, outputs: Shapes) -> float:
    weight = _weight(inputs)
    over = inputs[0] if "transpose" in name else outputs[0]
    return 2.0 * math.prod(over) * math.prod(weight[1:])


def _convolution_backward(name: str, inputs: Shapes, outputs: Shapes) -> float:
    weight = _weight(inputs[1:])
    return 4.0 * math.prod(inputs[0]) * math.prod(weight[1:])


def _scan(name: str, inputs: Shapes, outputs: Shapes) -> float:
    """A state of N values per channel runs along the sequence."""
    state = next((s for s in inputs[1:] if len(s) == 2), inputs[min(3, len(inputs) - 1)])
    return _SCAN_FLOP * math.prod(inputs[0]) * state[-1]


def _fourier(name: str, inputs: Shapes, outputs: Shapes) -> float:
    """``5 n log2 n`` along the last axis (the usual count of a complex transform)."""
    largest = max((*inputs[:1], *outputs[:1]), key=math.prod)
    return 5.0 * math.prod(largest) * math.log2(max(2, largest[-1]))


def _recurrent(name: str, inputs: Shapes, outputs: Shapes) -> float:
    """Every weight matrix meets every sample of every time step."""
    steps_and_samples = math.prod(inputs[0][:2])
    return 2.0 * steps_and_samples * sum(math.prod(s) for s in inputs[1:] if len(s) == 2)


def _factorisation(factor: float) -> Callable[[str, Shapes, Shapes], float]:
    def flop(name: str, inputs: Shapes, outputs: Shapes) -> float:
        *batch, rows, columns = inputs[0]
        return factor * math.prod(batch) * rows * columns * min(rows, columns)

    return flop


def _doubled(formula: Callable[[str, Shapes, Shapes], float]) -> Callable[[str, Shapes, Shapes], float]:
    return lambda name, inputs, outputs: 2.0 * formula(name, inputs, outputs)


def _grouped(name: str, inputs: Shapes, outputs: Shapes) -> float:
    return grouped_product(inputs, outputs)


def _attention(name: str, inputs: Shapes, outputs: Shapes) -> float:
    return attention(inputs, _tokens(name))


def _attention_backward(name: str, inputs: Shapes, outputs: Shapes) -> float:
    return 2.5 * attention(inputs[1:], _tokens(name))


_Formula = Callable[[str, Shapes, Shapes], float]
_KINDS: tuple[tuple[re.Pattern[str], _Formula, _Formula], ...] = tuple(
    (re.compile(pattern), forward, backward)
    for pattern, forward, backward in (
        (r"attention|attn|sdpa|\bmha", _attention, _attention_backward),
        (r"group\w*_?(mm|gemm|matmul|linear)|moe_(mm|gemm|linear)", _grouped, _doubled(_grouped)),
        (r"conv(?!ert)", _convolution, _convolution_backward),
        (r"(selective|ssm|ssd|chunk)\w*scan|scan_(fwd|bwd)", _scan, _doubled(_scan)),
        (r"fft", _fourier, _fourier),
        (r"(lstm|gru|rnn)(?!\w*cell)", _recurrent, _doubled(_recurrent)),
        (r"(mm|gemm|matmul|linear)(?!\w*cell)|^mv$|^addmv|^dot$|^vdot$", _product, _product_backward),
        (r"cholesky(?!_solve)|triangular_solve|solve_triangular", _factorisation(1 / 3), _factorisation(1.0)),
        (r"linalg_(lu|solve|det|slogdet)|^lu|_solve_ex", _factorisation(2 / 3), _factorisation(2.0)),
        (r"linalg_(inv|qr)|geqrf|householder", _factorisation(2.0), _factorisation(4.0)),
        (r"linalg_(svd|eig)|matrix_exp", _factorisation(14.0), _factorisation(14.0)),
    )
)
"""Kind by its name, its formula and that of its backward pass; the first that fits counts."""
