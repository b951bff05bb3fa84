"""Parameters that the loss does not read."""

from __future__ import annotations

import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.capture.unread import with_unread
from drlpp.graph import Op, Work


class TwoHeads(nn.Module):
    """Only one of the heads is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head, self.other = nn.Linear(4, 2), nn.Linear(4, 64)
        self.body.scale = nn.Parameter(torch.ones(7))
        self.tied = self.body[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)).square().mean()


def test_they_are_not_trained() -> None:
    graph = capture_module(TwoHeads(), torch.randn(3, 4)).graph
    assert graph.frozen == {"body.scale", "other.weight", "other.bias"}


def test_every_parameter_counts_once() -> None:
    model = TwoHeads()
    graph = capture_module(model, torch.randn(3, 4)).graph
    assert dict(graph.param_bytes) == {n: 4.0 * p.numel() for n, p in model.named_parameters()}
    of_op = {p: op.module for op in graph.ops for p in op.params}
    assert of_op["body.scale"].startswith("body.")
    assert sum(p == "other.weight" for op in graph.ops for p in op.params) == 1


def test_parameters_of_the_loss_count_too() -> None:
    loss = nn.CrossEntropyLoss()
    loss.spare = nn.Parameter(torch.ones(5))
    graph = capture_module(nn.Linear(4, 3), (torch.randn(2, 4), torch.tensor([0, 1])), loss).graph
    assert sum(graph.param_bytes.values()) == 4 * (15 + 5)


def test_the_nearest_op_is_the_first_with_the_longest_common_path() -> None:
    nothing = Work(flop=0.0, bytes=0.0)
    ops = [
        Op(name=n, kind="aten.mm", module=m, forward=nothing, input_grad=nothing, weight_grad=nothing)
        for n, m in (("a", "x.y"), ("b", "x.z"), ("c", "x.z.w"))
    ]
    found = {op.name: op.params for op in with_unread(ops, {"x.z.p": 0, "q.p": 0, "x.p": 0, "x.z.w.v.p": 0})}
    assert found == {"a": ("q.p", "x.p"), "b": ("x.z.p",), "c": ("x.z.w.v.p",)}
    assert with_unread([], {"p": 0}) == ()
