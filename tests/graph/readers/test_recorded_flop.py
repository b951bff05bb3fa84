"""Closed forms of FLOP."""

import pytest

from drlpp.graph.readers.recorded_flop import known_flop


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "flop"),
    [
        ("aten::mm", [(2, 3), (3, 4)], [], 48),
        ("aten::addmm", [(4,), (2, 3), (3, 4)], [], 48),
        ("aten::bmm", [(5, 2, 3), (5, 3, 4)], [], 240),
        ("aten::matmul", [(2, 3), (3,)], [], 12),
        ("aten::linear", [(2, 7, 3), (4, 3), (4,)], [], 336),
        ("aten::linear", [(2, 3), (3,)], [], 12),
        ("aten::conv2d", [(1, 2, 8, 8), (6, 2, 3, 3)], [(1, 6, 8, 8)], 2 * 6 * 64 * 18),
        ("aten::conv_transpose2d", [(1, 2, 8, 8), (2, 6, 3, 3)], [(1, 6, 10, 10)], 2 * 128 * 54),
        ("aten::convolution_backward", [(1, 6, 8, 8), (1, 2, 8, 8), (6, 2, 3, 3)], [], 4 * 384 * 18),
        ("aten::convolution_backward", [(1, 6, 10, 10), (1, 2, 8, 8), (2, 6, 3, 3)], [], 4 * 128 * 54),
        ("aten::scaled_dot_product_attention", [(1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8)], [], 2 * 70 * 16),
        (
            "aten::_scaled_dot_product_flash_attention_backward",
            [(1, 2, 5, 8), (1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8)],
            [],
            5 * 70 * 16,
        ),
    ],
)
def test_closed_forms(name, inputs, outputs, flop):
    assert known_flop(name, inputs, outputs) == flop


def test_what_has_no_rule_or_no_shapes_is_not_known():
    assert known_flop("aten::relu", [(2, 3)], [(2, 3)]) is None
    assert known_flop("aten::conv2d", [(1, 2, 8, 8), (6, 2, 3, 3)], []) is None
