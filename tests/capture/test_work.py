"""Closed forms for the work of the common operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from drlpp.capture import capture_module
from drlpp.capture.work import Kernels
from drlpp.graph import Op, OpGraph


class One(nn.Module):
    def __init__(self, function: Any, **parameters: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self, *[x * 1 for x in inputs]).sum()


def graph_of(
    function: Any, inputs: list[torch.Tensor], kernels: Kernels = "gpu", **parameters: torch.Tensor
) -> OpGraph:
    for x in inputs:
        if x.is_floating_point():
            x.requires_grad_()
    module = One(function, **parameters)
    module.start = nn.Parameter(torch.ones(()))
    module.function = lambda self, *xs: function(self, *[x * self.start if x.is_floating_point() else x for x in xs])
    return capture_module(module, inputs, kernels=kernels).graph


def the(graph: OpGraph, kind: str) -> Op:
    (op,) = [op for op in graph.ops if op.kind == kind]
    return op


def test_linear():
    n, i, o = 5, 7, 11
    op = the(
        graph_of(lambda m, x: F.linear(x, m.w, m.b), [torch.ones(n, i)], w=torch.ones(o, i), b=torch.ones(o)),
        "aten.linear",
    )
    assert op.forward.flop == 2 * n * i * o
    assert op.input_grad.flop == 2 * n * i * o
    assert op.weight_grad.flop >= 2 * n * i * o
    assert op.forward.bytes == 4 * (n * i + o * i + o + n * o)
    accumulated = 3 * 4 * (o * i + o)
    assert op.weight_grad.bytes >= 4 * (n * i + n * o) + accumulated
    assert op.params == ("w", "b")


def test_convolution():
    n, c, o, size = 2, 3, 4, 6
    graph = graph_of(lambda m, x: F.conv2d(x, m.w, padding=1), [torch.ones(n, c, size, size)], w=torch.ones(o, c, 3, 3))
    op = the(graph, "aten.conv2d.3x3")
    assert op.forward.flop == 2 * n * o * size * size * c * 9
    assert op.input_grad.flop == pytest.approx(op.forward.flop)
    assert op.weight_grad.flop == pytest.approx(op.forward.flop, rel=0.05)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_is_counted_in_its_fused_form(dropout):
    b, h, s, d = 2, 3, 16, 8
    graph = graph_of(
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=dropout),
        [torch.ones(b, h, s, d) for _ in range(3)],
    )
    op = the(graph, "aten.scaled_dot_product_attention")
    assert op.forward.flop == 4 * b * h * s * s * d
    assert op.input_grad.flop == 10 * b * h * s * s * d
    kept = sum(graph.tensor_bytes[t] for t in op.saved)
    assert kept == 4 * b * h * (4 * s * d + s), "query, key, value, result and one number per row; no scores"


def test_attention_with_dropout_keeps_its_scores_on_a_cpu():
    b, h, s, d = 2, 3, 16, 8

    def attention(m, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)

    graph = graph_of(attention, [torch.ones(b, h, s, d) for _ in range(3)], "cpu")
    kept = sum(graph.tensor_bytes[t] for t in the(graph, "aten.scaled_dot_product_attention").saved)
    assert kept >= 4 * b * h * 3 * s * s, "probabilities, the mask, and their product"


@pytest.mark.parametrize(("kernels", "bytes_per_element"), [("gpu", 1), ("cpu", 4)])
def test_mask_of_dropout(kernels, bytes_per_element):
    graph = graph_of(lambda m, x: F.dropout(x, 0.5), [torch.ones(3, 5)], kernels)
    op = the(graph, "aten.dropout")
    assert sum(graph.tensor_bytes[t] for t in op.saved if ":saved" in t) == 15 * bytes_per_element


def test_dropout_that_does_nothing_keeps_nothing():
    graph = graph_of(lambda m, x: F.dropout(x, 0.0), [torch.ones(3, 5)])
    assert not any(":saved" in t for op in graph.ops for t in op.saved)


def test_grouped_attention():
    q, kv = torch.ones(2, 4, 16, 8), torch.ones(2, 2, 16, 8)
    graph = graph_of(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), [q, kv, kv.clone()])
    assert the(graph, "aten.scaled_dot_product_attention").forward.flop >= 4 * 2 * 4 * 16 * 16 * 8


def test_lstm():
    t, n, i, h = 5, 3, 4, 6
    graph = capture_module(Lstm(i, h), torch.ones(n, t, i)).graph
    op = the(graph, "aten.lstm")
    assert op.forward.flop == pytest.approx(2 * t * n * 4 * h * (i + h), rel=0.05)
    assert (op.input_grad.flop + op.weight_grad.flop) == pytest.approx(2 * op.forward.flop, rel=0.1)
    assert len(op.params) == 4
    gates_and_cells = 5 * t * n * h * 4
    assert sum(graph.tensor_bytes[x] for x in op.saved) >= gates_and_cells


class Lstm(nn.Module):
    def __init__(self, i: int, h: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(i, h, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0].sum()


def test_element_wise_operators_read_and_write():
    op = the(graph_of(lambda m, x: x.exp(), [torch.ones(10, 10)]), "aten.exp")
    assert op.forward.flop == 100
    assert op.forward.bytes == 2 * 400
    assert op.weight_grad.bytes == 0


def test_an_embedding_reads_rows_and_writes_a_whole_gradient():
    graph = graph_of(lambda m, i: F.embedding(i, m.table), [torch.tensor([1, 2])], table=torch.ones(1000, 8))
    op = the(graph, "aten.embedding")
    assert op.forward.bytes < 4 * 8 * 8
    assert op.forward.flop == 0
    assert op.input_grad.bytes == 0
    assert op.weight_grad.bytes >= 4 * 1000 * 8


def test_saved_tensors_are_what_autograd_keeps():
    x = torch.ones(4, 4)
    assert the(graph_of(lambda m, x: x.exp(), [x.clone()]), "aten.exp").saved == ("exp",)
    assert the(graph_of(lambda m, x: x.sin(), [x.clone()]), "aten.sin").saved[0].startswith("mul")
    assert the(graph_of(lambda m, x: x.neg(), [x.clone()]), "aten.neg").saved == ()


def test_a_gradient_of_unknown_shape_costs_as_much_as_the_forward():
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[torch.ones(4, dtype=torch.bool)] = m.fill
        return y

    graph = graph_of(function, [torch.ones(4, 3)], fill=torch.ones(3))
    op = next(op for op in graph.ops if any("index_put" in m for m in op.members))
    assert op.input_grad.bytes > 0
