"""The two halves of a backward pass give the gradients of the whole, and together do its work once."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from drlpp.runtime.stage.split_backward import input_gradients, weight_gradients


class Branches(nn.Module):
    """Two branches, a skip, a normalisation, and a parameter that is used twice if `shared`."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.ones(8))
        self.shared = shared

    def forward(self, x):
        left = torch.relu(self.a(x))
        right = self.b(self.norm(x)) * self.scale
        joined = left + right + x
        if self.shared:
            joined = self.a(joined)
        return self.c(joined), left.sum(dim=0)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.second = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        return (self.second(self.first(x)),)


class NoWayToTheInput(nn.Module):
    """One output does not depend on the input: only W has work there."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x), self.layer(self.embedding.weight)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x):
        return (self.lstm(x.unsqueeze(1))[0],)


CASES = {
    "branches": (lambda: Branches(False), (4, 8)),
    "shared weight": (lambda: Branches(True), (4, 8)),
    "convolutions": (Convolutions, (3, 2, 5, 5)),
    "no way to the input": (NoWayToTheInput, (4, 8)),
    "recurrent": (Recurrent, (4, 8)),
}


def run(case, leaf):
    torch.manual_seed(0)
    make, shape = CASES[case]
    module = make()
    x = torch.randn(shape, requires_grad=leaf)
    outputs = module(x)
    return list(module.parameters()), x, outputs, [torch.randn_like(o) for o in outputs]


@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_halves_give_the_gradients_of_the_whole(case, leaf):
    parameters, x, outputs, gradients = run(case, leaf)
    inputs = [x] if leaf else []
    whole = torch.autograd.grad(outputs, [*inputs, *parameters], gradients, retain_graph=True, allow_unused=True)
    weight_gradients(input_gradients(outputs, gradients, inputs, parameters))
    halves = [t.grad for t in (*inputs, *parameters)]
    for a, b in zip(halves, whole, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("case", ["branches", "convolutions"])
def test_the_halves_share_their_work(case):
    parameters, x, outputs, gradients = run(case, leaf=True)
    with FlopCounterMode(display=False) as whole:
        torch.autograd.grad(outputs, [x, *parameters], gradients, retain_graph=True)
    with FlopCounterMode(display=False) as first:
        later = input_gradients(outputs, gradients, [x], parameters)
    with FlopCounterMode(display=False) as second:
        weight_gradients(later)
    assert first.get_total_flops() + second.get_total_flops() == whole.get_total_flops()
    assert first.get_total_flops() < whole.get_total_flops()


def test_only_parameters_that_come_for_nothing_are_taken_along():
    parameters, x, outputs, gradients = run("convolutions", leaf=True)
    later = input_gradients(outputs, gradients, [x], parameters)
    vectors_of_norms = [False, False, True, True, False, False]
    assert [p.grad is not None for p in parameters] == vectors_of_norms
    assert x.grad is not None
    weight_gradients(later)
    assert all(p.grad is not None for p in parameters)


def test_gradients_are_added_up():
    parameters, x, outputs, gradients = run("branches", leaf=True)
    for _ in range(2):
        weight_gradients(input_gradients(outputs, gradients, [x], parameters))
    once = torch.autograd.grad(outputs, [x, *parameters], gradients)
    for t, g in zip([x, *parameters], once, strict=True):
        torch.testing.assert_close(t.grad, 2 * g)
