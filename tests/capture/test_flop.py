"""FLOP of kernels: registered formulas, kinds, single passes, and what is unknown."""

import logging

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import flop_registry, register_flop_formula

from drlpp.capture import capture_module
from drlpp.capture.flop import kernel_flop

aten = torch.ops.aten
G, S, K, N = 4, 24, 16, 8


@torch.library.custom_op("drlpp_tests::blend", mutates_args=())
def blend(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """An operator whose name says nothing of its work."""
    return x + table.sum(0)


@blend.register_fake
def _(x, table):
    return torch.empty_like(x)


blend.register_autograd(lambda ctx, grad: (grad, grad.sum(0).expand(5, -1)))


class Blending(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(5, 3))

    def forward(self, x):
        return blend(x, self.table).square().mean()


def flop_of(kind, module, inputs):
    graph = capture_module(module, inputs).graph
    ops = [op for op in graph.ops if op.kind == kind]
    return sum(op.forward.flop for op in ops), sum(op.input_grad.flop + op.weight_grad.flop for op in ops)


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.ones(K, dtype=torch.bfloat16))
        self.experts = nn.Parameter(torch.zeros(G, K, N, dtype=torch.bfloat16))

    def forward(self, x, ends):
        return torch._grouped_mm(x * self.start, self.experts, offs=ends).float().square().mean()


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this release of torch has no grouped product")
def test_a_grouped_product_multiplies_every_row_with_one_matrix():
    inputs = (torch.zeros(S, K, dtype=torch.bfloat16), torch.arange(1, G + 1, dtype=torch.int32) * (S // G))
    forward, backward = flop_of("aten._grouped_mm", Grouped(), inputs)
    assert forward == 2 * S * K * N
    assert backward == pytest.approx(2 * forward, rel=0.05)  # and the sum of the gradients


def small(name, **more):
    import transformers

    config_class = getattr(transformers, f"{name}Config")
    config = config_class(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        vocab_size=128,
        use_cache=False,
        tie_word_embeddings=False,
        **more,
    )
    with torch.device("cpu"):
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    ids = torch.zeros(1, 64, dtype=torch.long)
    graph = capture_module(model, {"input_ids": ids, "labels": ids}).graph
    return sum(op.forward.flop + op.input_grad.flop + op.weight_grad.flop for op in graph.ops)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_experts_cost_what_a_dense_layer_of_the_active_size_costs(implementation):
    import transformers

    if int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip("transformers 4 has no implementations of experts to choose from")
    dense = small("Qwen3", intermediate_size=256)
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
    sparse = small("Qwen3Moe", intermediate_size=256, experts_implementation=implementation, **experts)
    router = 6 * 64 * 64 * 8 * 2
    assert sparse == pytest.approx(dense + router, rel=0.03)  # the rest sorts, weights and sums


def test_a_transform_counts_all_its_axes():
    x = torch.zeros(3, 8, 16)
    flop = kernel_flop(aten._fft_r2c.default, (x, [1, 2], 0, True), {}, torch.fft.rfft2(x))
    assert flop == (5 * x.numel() * 7, True)


@pytest.mark.parametrize(
    ("overload", "args", "flop"),
    [
        (aten.relu.default, (torch.zeros(2, 3),), 6),
        (aten.native_layer_norm.default, (torch.zeros(2, 3), [3], None, None, 1e-5), 6),
        (aten.softplus_backward.default, (torch.zeros(2, 3), torch.zeros(2, 3), 1, 20), 6),
        (aten.clone.default, (torch.zeros(2, 3),), 0),
        (aten.eye.default, (4,), 0),
        (aten.eq.Tensor, (torch.zeros(2, 3), torch.zeros(2, 3)), 0),
        (aten.mv.default, (torch.zeros(5, 3), torch.zeros(3)), 30),
        (aten._cdist_forward.default, (torch.zeros(5, 3), torch.zeros(7, 3), 2.0, None), 3 * 5 * 7 * 3),
        (
            aten._trilinear.default,
            (torch.zeros(5, 2), torch.zeros(4, 2, 3), torch.zeros(5, 3), [1, 3], [0], [1, 2], [2, 3]),
            3 * 5 * 4 * 2 * 3,
        ),
    ],
)
def test_kernels_of_every_kind_are_known(overload, args, flop):
    assert kernel_flop(overload, args, {}, overload(*args)) == (flop, True)


def test_operators_without_a_formula_are_named_once_with_their_share(caplog):
    with caplog.at_level(logging.WARNING):
        graph = capture_module(Blending(), torch.zeros(4, 3)).graph
    (record,) = [r for r in caplog.records if r.name.startswith("drlpp")]
    message = record.getMessage()
    assert message.startswith("Blending: no FLOP formula for drlpp_tests.blend, with ")
    assert "% of the bytes: counted as one FLOP per element; register one with torch.utils.flop_counter" in message
    assert next(op for op in graph.ops if "blend" in op.kind).forward.flop == 15


def test_a_formula_that_the_user_registered_counts(caplog):
    packet = torch.ops.drlpp_tests.blend
    register_flop_formula(packet)(lambda x, table, *args, **kwargs: 1234)
    try:
        with caplog.at_level(logging.WARNING):
            graph = capture_module(Blending(), torch.zeros(4, 3)).graph
    finally:
        del flop_registry[packet]
    assert next(op for op in graph.ops if "blend" in op.kind).forward.flop == 1234
    assert not caplog.records


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients_of_grouped_convolutions_cost_as_much_as_forward(groups):
    with FakeTensorMode():
        x, weight = torch.empty(2, 4, 8, 8), torch.empty(4, 4 // groups, 3, 3)
        call = ([1, 1], [1, 1], [1, 1], False, [0, 0], groups)
        out = torch.ops.aten.convolution.default(x, weight, None, *call)
        forward = kernel_flop(torch.ops.aten.convolution.default, (x, weight, None, *call), {}, out)
        arguments = (out, x, weight, None, *call, [True, True, False])
        gradients = torch.ops.aten.convolution_backward.default(*arguments)
        backward = kernel_flop(torch.ops.aten.convolution_backward.default, arguments, {}, gradients)
    assert backward.amount == 2 * forward.amount == 2 * 2 * out.numel() * (4 // groups) * 9
