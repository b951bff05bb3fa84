"""Closed forms of kinds."""

import pytest

from drlpp.graph.flop_kinds import flop_of_kind

S, G, K, N = 24, 4, 8, 6
QKV = [(2, 5, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8)]


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "flop"),
    [
        ("transformers::grouped_mm_fallback", [(S, K), (G, K, N), (G,)], [(S, N)], 2 * S * K * N),
        ("aten::_grouped_mm", [(S, K), (G, K, N), (G,)], [(S, N)], 2 * S * K * N),
        ("aten::_grouped_mm", [(K, S), (S, N), (G,)], [(G, K, N)], 2 * S * K * N),
        ("aten::_grouped_mm", [(G, N, K), (K, S), (G,)], [(N, S)], 2 * S * K * N),
        ("aten::_grouped_mm", [(G, S, K), (G, K, N)], [(G, S, N)], 2 * G * S * K * N),
        ("aten::_scaled_grouped_mm", [(S, K), (G, K, N), (S,), (G, N), (G,)], [(S, N)], 2 * S * K * N),
        (
            "transformers::grouped_mm_fallback_backward",
            [(S, K), (G, K, N), (G,), (S, N)],
            [(S, K), (G, K, N)],
            4 * S * K * N,
        ),
        ("flash_attn::_flash_attn_forward", QKV, [(2, 5, 3, 8)], 2 * 2 * 3 * 5 * 7 * 16),
        ("flash_attn::_flash_attn_backward", [(2, 5, 3, 8), *QKV], [], 5 * 2 * 3 * 5 * 7 * 16),
        ("mine::my_linear", [(2, 7, 3), (4, 3)], [(2, 7, 4)], 2 * 14 * 3 * 4),
        ("mine::linear_backward", [(14, 4), (14, 3), (4, 3)], [(14, 3), (4, 3)], 4 * 14 * 3 * 4),
        ("aten::_addmm_activation", [(4,), (2, 3), (3, 4)], [(2, 4)], 48),
        ("aten::mv", [(5, 3), (3,)], [(5,)], 30),
        ("causal_conv1d::causal_conv1d_fwd", [(2, 16, 9), (16, 4), (16,)], [(2, 16, 9)], 2 * 288 * 4),
        ("torchvision::deform_conv2d", [(1, 2, 8, 8), (6, 2, 3, 3)], [(1, 6, 8, 8)], 2 * 384 * 18),
        (
            "mamba_ssm::selective_scan_fwd",
            [(2, 16, 9), (2, 16, 9), (16, 4), (2, 4, 9), (2, 4, 9)],
            [(2, 16, 9)],
            9 * 288 * 4,
        ),
        ("mamba_ssm::mamba_chunk_scan_combined", [(2, 9, 4, 8), (2, 9, 4), (4,), (2, 9, 1, 5)], [], 9 * 576 * 5),
        ("aten::_fft_r2c", [(3, 64)], [(3, 33)], 5 * 3 * 64 * 6),
        ("aten::_cudnn_rnn", [(7, 2, 3), (20, 3), (20, 5), (20,), (20,)], [(7, 2, 5)], 2 * 14 * (60 + 100)),
        ("aten::linalg_cholesky_ex", [(3, 6, 6)], [(3, 6, 6)], 3 * 6**3 / 3),
        ("aten::linalg_inv_ex", [(6, 6)], [(6, 6)], 2 * 6**3),
    ],
)
def test_closed_forms(name, inputs, outputs, flop):
    assert flop_of_kind(name, inputs, outputs) == pytest.approx(flop)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("aten::relu", [(2, 3)], [(2, 3)]),
        ("mine::fancy", [(2, 3)], [(2, 3)]),
        ("flash_attn::_flash_attn_varlen_forward", [(9, 3, 8), (9, 3, 8), (9, 3, 8)], [(9, 3, 8)]),
        ("mine::my_linear", [(2, 3), (4, 3)], []),
        ("mine::conv1d", [(2, 3, 4)], [(2, 3, 4)]),
        ("mine::grouped_gemm", [(2, 3)], [(2, 3)]),
        ("aten::convert_weights", [(2, 3)], [(2, 3)]),
    ],
)
def test_what_has_no_kind_or_no_shapes_is_not_known(name, inputs, outputs):
    assert flop_of_kind(name, inputs, outputs) is None
