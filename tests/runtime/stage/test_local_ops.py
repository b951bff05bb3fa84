"""What one member calls gives its part of what one device gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from drlpp.capture import capture_module
from drlpp.capture.cuts import PARTIAL, Cut
from drlpp.runtime.stage.local_ops import EmbeddingPart, Squeeze, arguments_of, bias_of, exchanging, local_arguments
from drlpp.runtime.stage.moves import Members, part
from drlpp.runtime.stage.randomness import RandomContext, SeededOp

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default


def call(target: Callable[..., Any], shape: tuple[int, ...], *args: Any, **kwargs: Any) -> fx.Node:
    """A call on a tensor of a shape; its result is looked up."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(shape)
    node = graph.call_function(target, (x, *args), kwargs)
    result = target(x.meta["val"], *args, **kwargs)
    node.meta["val"] = result
    return node


@pytest.mark.parametrize(
    ("node", "gives", "name", "value"),
    [
        (call(aten.view.default, (2, 8, 12), [2, 8, 4, 3]), Cut(2), "size", [2, 8, 2, 3]),
        (call(aten.view.default, (2, 8, 12), [2, -1, 4, 3]), Cut(1), "size", [2, -1, 4, 3]),
        (call(aten.reshape.default, (2, 8), [16]), Cut(0, (8,)), "shape", [8]),
        (call(aten.expand.default, (2, 1, 4), [2, 6, 4]), Cut(1), "size", [2, 3, 4]),
        (call(aten.unflatten.int, (2, 8, 12), -1, [4, 3]), Cut(2), "sizes", [2, 3]),
        (call(aten.slice.Tensor, (2, 12), 1, 4, 8), Cut(1), "start", 2),
        (call(aten.slice.Tensor, (2, 12), 1, -4, 9223372036854775807), Cut(1), "end", 6),
        (call(aten.split.Tensor, (2, 12), 4, -1), Cut(1, (4,)), "split_size", 2),
        (call(aten.split_with_sizes.default, (2, 12), [8, 4], 1), Cut(1, (8, 4)), "split_sizes", [4, 2]),
    ],
)
def test_sizes_that_are_told(node: fx.Node, gives: Cut, name: str, value: object) -> None:
    found = local_arguments(node, gives, 2)
    assert found is not None
    assert found[name] == value


@pytest.mark.parametrize(
    ("node", "gives"),
    [
        (call(aten.unflatten.int, (2, 8, 12), -1, [4, 3]), Cut(1)),
        (call(aten.slice.Tensor, (2, 12), 1, 0, 12), Cut(1)),
        (call(aten.slice.Tensor, (2, 12), 1, 0, 6), Cut(0)),
        (call(aten.split.Tensor, (2, 12), 4, -1), Cut(0)),
        (call(aten.view.default, (2, 8, 12), [16, 12]), PARTIAL),
        (call(aten.view.default, (2, 8, 12), [16, 12]), None),
        (call(aten.relu.default, (2, 8)), Cut(1)),
    ],
)
def test_what_stays_as_it_is(node: fx.Node, gives: Cut | None) -> None:
    assert local_arguments(node, gives, 2) is None


def test_tables_in_parts() -> None:
    table, ids = nn.Embedding(8, 3, padding_idx=5).weight, torch.randint(8, (4, 6))
    parts = [EmbeddingPart(Members(None, 2, p))(part(table, Cut(0), 2, p), ids, 5) for p in range(2)]
    whole = aten.embedding.default(table, ids, 5)
    torch.testing.assert_close(parts[0] + parts[1], whole)
    parted = torch.autograd.grad((parts[0] + parts[1]).square().sum(), table)
    torch.testing.assert_close(parted, torch.autograd.grad(whole.square().sum(), table))


def test_squeeze_keeps_what_a_cut_made_one_long() -> None:
    node = call(aten.squeeze.default, (2, 1, 4))
    own = exchanging(node, Cut(0), Members(None, 2, 0), RandomContext(0))
    assert isinstance(own, Squeeze)
    assert own(torch.zeros(1, 1, 4)).shape == (1, 4)


def test_biases_by_name() -> None:
    graph = fx.Graph()
    x, w, b = (graph.placeholder(n) for n in "xwb")
    node = graph.call_function(aten.linear.default, (x, w, b))
    assert bias_of(node) is b
    assert bias_of(graph.call_function(aten.linear.default, (x, w))) is None
    assert bias_of(graph.call_function(aten.addmm.default, (b, x, w))) is b
    assert arguments_of(node) == {"input": x, "weight": w, "bias": b}


@pytest.mark.parametrize(
    ("cut", "transposed"), [(Cut(1), False), (Cut(2), False), (Cut(1), True), (Cut(2, (4, 2)), True)]
)
def test_parts_of_dropout_are_those_of_the_whole(cut: Cut, transposed: bool) -> None:
    """Also where the tensor lies in memory in another order: numbers are drawn in that of the memory."""
    whole = torch.randn(3, 6, 4).transpose(1, 2) if transposed else torch.randn(3, 4, 6)
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = whole
    node = graph.call_function(torch.ops.aten.dropout.default, (x, 0.4, True))
    expected = SeededOp(torch.ops.aten.dropout.default, node.name, RandomContext(7))(whole, 0.4, True)
    for place in range(2):
        members = Members(None, 2, place)
        own = exchanging(node, cut, members, RandomContext(7))
        found = own(members.part(whole, cut), 0.4, True)
        assert torch.equal(found, members.part(expected, cut))
    assert 0 < int((expected == 0).sum()) < expected.numel()


def test_summands_drop_what_their_sum_drops() -> None:
    summands = torch.randn(2, 3, 4)
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = summands[0]
    node = graph.call_function(torch.ops.aten.dropout.default, (x, 0.4, True))
    expected = SeededOp(torch.ops.aten.dropout.default, node.name, RandomContext(7))(summands.sum(0), 0.4, True)
    each = [exchanging(node, PARTIAL, Members(None, 2, place), RandomContext(7)) for place in range(2)]
    found = sum(own(summand, 0.4, True) for own, summand in zip(each, summands, strict=True))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("cut", [Cut(1), Cut(2)])
@pytest.mark.parametrize("form", ["plain", "masked", "told apart", "causal", "shared keys", "half"])
def test_parts_of_attention_drop_what_the_whole_drops(cut: Cut, form: str) -> None:
    """Heads or queries; the gradients of a member are those of its part."""
    if form in ("causal", "shared keys") and cut.dim == 2:
        return
    dtype = torch.bfloat16 if form == "half" else torch.float32
    q, k, v = (torch.randn(2, 4 if i == 0 or form != "shared keys" else 2, 6, 8, dtype=dtype) for i in range(3))
    mask = {"masked": torch.randn(2, 1, 6, 6), "told apart": torch.rand(2, 1, 6, 6) > 0.4}.get(form)
    options = {"is_causal": form == "causal", "enable_gqa": form == "shared keys", "scale": 0.3}
    graph = fx.Graph()
    node = graph.call_function(ATTENTION, tuple(graph.placeholder(n) for n in "qkv"), {"dropout_p": 0.4})
    node.meta["val"] = q
    q.requires_grad_()
    whole = SeededOp(ATTENTION, node.name, RandomContext(7))(q, k, v, mask, 0.4, **options)
    expected = torch.autograd.grad(whole.float().square().sum(), q)[0]
    for place in range(2):
        members = Members(None, 2, place)
        own = exchanging(node, cut, members, RandomContext(7))
        assert own is not None
        mine = members.part(q.detach(), cut).requires_grad_()
        keys, values = (members.part(t, cut) if cut.dim == 1 else t for t in (k, v))
        masked = None if mask is None else mask if cut.dim == 1 else members.part(mask, cut)
        found = own(mine, keys, values, masked, 0.4, **options)
        near = {"rtol": 2e-2, "atol": 2e-2} if form == "half" else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(found, members.part(whole, cut), **near)
        (gradient,) = torch.autograd.grad(found.float().square().sum(), mine)
        torch.testing.assert_close(gradient, members.part(expected, cut), **near)


@pytest.mark.parametrize(("dim", "groups"), [(1, 4), (0, None)])
def test_groups_of_a_convolution(dim: int, groups: int | None) -> None:
    node = call(aten.conv2d.default, (2, 8, 4, 4), torch.zeros(8, 1, 3, 3), None, [1, 1], [0, 0], [1, 1], 8)
    found = local_arguments(node, Cut(dim), 2)
    assert (found and found["groups"]) == groups


def test_the_rule_of_dropout_offers_cuts() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    captured = capture_module(model, torch.randn(2, 4), torch.sum)
    (dropout,) = [op for op in captured.graph.ops if op.kind.endswith("dropout")]
    assert [split.size for split in dropout.splits] == [8]
