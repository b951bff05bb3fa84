from __future__ import annotations

import torch
from torch import nn

from drlpp.capture import capture_module


def ops_of(module: nn.Module, *inputs: torch.Tensor) -> list[set[str]]:
    """The members of every op, as kinds with their number: ``relu_``, ``add``."""
    captured = capture_module(module, inputs)
    return [set(op.members) for op in captured.graph.ops]


def same(ops: list[set[str]], *names: str) -> bool:
    return any(set(names) <= op for op in ops)


class Forward(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self, *inputs)


def test_a_tuple_stays_with_its_elements():
    def f(self, x):
        values, indices = torch.max(self.linear(x), dim=1)
        return values.sum() + indices.sum()

    ops = ops_of(Forward(f), torch.ones(2, 4))
    assert same(ops, "max_1", "getitem", "getitem_1")


def test_readers_before_a_change_in_place_stay_with_it():
    def f(self, x):
        h = self.linear(x)
        before = h.exp()
        h.mul_(2)
        after = h.sin()
        return (before * after).sum()

    ops = ops_of(Forward(f), torch.ones(2, 4))
    assert same(ops, "linear", "exp", "mul_")
    assert not same(ops, "linear", "sin")


def test_a_change_through_a_view_reaches_the_base():
    def f(self, x):
        h = self.linear(x)
        before = h.exp()
        h[0].zero_()
        return (before + h).sum()

    assert same(ops_of(Forward(f), torch.ones(2, 4)), "linear", "exp", "zero_")


def test_changes_that_wait_for_each_other_are_merged():
    def f(self, x):
        a = self.linear(x)
        b = a.exp()
        c = b.sin()
        a.add_(c)
        return a.sum()

    assert same(ops_of(Forward(f), torch.ones(2, 4)), "linear", "exp", "sin", "add_")


def test_an_input_changed_in_place_keeps_all_its_readers():
    def f(self, x, y):
        before = y.exp()
        y.add_(1.0)
        after = y.sin()
        return (self.linear(x) * before * after).sum()

    assert same(ops_of(Forward(f), torch.ones(2, 4), torch.ones(2, 4)), "exp", "add_", "sin")


def test_batch_norm_keeps_its_statistics_and_counter():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.norm(x)
            return self.norm(self.linear(first)).sum()

    ops = ops_of(Net(), torch.randn(3, 4))
    assert same(ops, "add_", "batch_norm", "add__1", "batch_norm_1")


def test_parallel_branches_stay_apart():
    def f(self, x):
        a, b = self.linear(x).exp(), x.sin()
        return (a.cos() * b.tanh()).sum()

    ops = ops_of(Forward(f), torch.ones(2, 4))
    assert not same(ops, "exp", "sin")
    assert not same(ops, "cos", "tanh")


def test_views_stay_with_the_maker_of_their_memory():
    def f(self, x):
        h = self.linear(x).view(4, 2).t()
        wide = self.linear(x).sum(0, keepdim=True).expand(8, 4)
        return h.exp().sum() + wide.sin().sum()

    ops = ops_of(Forward(f), torch.ones(2, 4))
    assert same(ops, "linear", "view", "t")
    assert not same(ops, "sum_1", "expand"), "a view that shows more than there is may be made where it is needed"


def test_a_view_of_a_parameter_stays_with_its_only_user():
    def f(self, x):
        return torch.matmul(x, self.linear.weight.t()).sum()

    assert same(ops_of(Forward(f), torch.ones(2, 4)), "t", "matmul")


def test_an_autocast_region_stays_together():
    def f(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.linear(x).exp().sin()
        return y.float().sum()

    assert same(ops_of(Forward(f), torch.ones(2, 4)), "linear", "exp", "sin")
