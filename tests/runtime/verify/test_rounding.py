"""What an optimizer makes of rounding in the gradients of one process."""

import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.runtime.optimizers import optimizer_factory
from drlpp.runtime.verify.compare import compare
from drlpp.runtime.verify.reference import reference_run
from drlpp.runtime.verify.rounding import with_rounding


def test_a_large_learning_rate_makes_adamw_show_rounding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    captured = capture_module(model, torch.randn(4, 8), lambda out: out.square().mean())

    def moved(learning_rate: float, noise: float) -> float:
        plain = optimizer_factory("adamw", learning_rate)
        states = [
            reference_run(captured, seed=0, num_microbatches=2, steps=3, make_optimizer=make)
            for make in (plain, with_rounding(plain, noise, 1))
        ]
        result = compare(states[1:], states[0], captured.parameters, adaptive=True)
        return next(d.error for d in result.differences if d.quantity == "parameter")

    assert moved(0.05, 0.0) == 0.0
    assert moved(0.05, 3e-6) > 5 * moved(0.001, 3e-6) > 0


def test_noise_is_a_part_of_the_gradient_and_the_same_by_seed() -> None:
    weight, bias = nn.Parameter(torch.zeros(1000)), nn.Parameter(torch.zeros(10))
    found = []
    for _ in range(2):
        weight.grad, bias.grad = torch.ones(1000), torch.zeros(10)
        with_rounding(optimizer_factory("sgd", 0.0), 0.01, 3)([weight, bias]).step()
        found.append((weight.grad, bias.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert 0.009 < float((found[0][0] - 1).std()) < 0.011
    assert 0 < float(found[0][1].norm()) < 0.01
