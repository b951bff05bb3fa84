"""What is captured is the user's module, or it is refused."""

from __future__ import annotations

import copy
import itertools
import logging
from typing import Any

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module, hollow_parameters
from drlpp.capture.check import TOLERANCE, why_unchecked
from drlpp.capture.interpret import run_stages
from drlpp.errors import CaptureError
from habit_models import REFUSED, SUPPORTED, made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_the_graph_is_the_module_in_three_passes_at_every_cut(name: str) -> None:
    module, batch = made(name)
    plain, _ = made(name)
    captured = capture_module(module, batch)
    assert captured.unchecked == ""
    ours = dict(captured.module.named_parameters())
    cuts = itertools.cycle(range(captured.graph.num_ops))
    for step in range(3):
        for p in (*plain.parameters(), *ours.values()):
            p.grad = None
        torch.manual_seed(step)
        with torch.enable_grad():
            loss = plain(*(x.clone() for x in batch))
        loss.backward()
        torch.manual_seed(step)
        cut = next(cuts) if step else captured.graph.num_ops
        assert run_stages(captured, [int(i >= cut) for i in range(captured.graph.num_ops)]).item() == loss.item()
        for n, p in plain.named_parameters():
            found = ours[n].grad if n in ours and ours[n].grad is not None else torch.zeros_like(p)
            wanted = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7, msg=f"{n} in pass {step}")
        buffers = dict(captured.module.named_buffers())
        for n, b in plain.named_buffers():
            torch.testing.assert_close(buffers.get(n, b), b, msg=n)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_would_be_trained_otherwise_is_refused(name: str) -> None:
    module, batch = made(name)
    with pytest.raises(CaptureError, match=REFUSED[name][1]) as refusal:
        capture_module(module, batch)
    assert "\n" not in str(refusal.value)
    assert torch.is_grad_enabled()


def state_of(module: nn.Module) -> Any:
    attributes = {n: {k: v for k, v in vars(m).items() if not k.startswith("_")} for n, m in module.named_modules()}
    return attributes, {n: id(t) for n, t in (*module.named_parameters(), *module.named_buffers())}


@pytest.mark.parametrize("trained", [True, False])
def test_a_module_that_a_loss_function_uses_is_named(trained: bool) -> None:
    critic = nn.Linear(4, 4).requires_grad_(trained)
    batch = torch.randn(3, 4), torch.randn(3, 4)

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (critic(output) - critic(target)).square().mean()

    if trained:
        with pytest.raises(CaptureError, match=r"trained parameter 'critic.\w+' of a module that it does not own"):
            capture_module(nn.Linear(4, 4), batch, loss)
    else:
        assert len(capture_module(nn.Linear(4, 4), batch, loss).constants) == 4  # two reads of weight and bias


def test_tensors_in_plain_attributes_keep_their_values() -> None:
    module, batch = made("PlainAttribute")
    capture_module(module, batch)
    assert torch.equal(module.average, torch.zeros(8))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["HarmlessCounter", "AuxiliaryLoss", "AssignedBuffer", "EvalPart", "ClampedWeight"])
def test_the_module_is_left_as_it_was(name: str) -> None:
    module, batch = made(name)
    module.first.weight.grad = torch.ones(8, 8)  # type: ignore[union-attr]
    before, values = copy.copy(state_of(module)), copy.deepcopy(module.state_dict())
    generator = torch.get_rng_state()
    if name in REFUSED:
        with pytest.raises(CaptureError):
            capture_module(module, batch)
    else:
        capture_module(module, batch)
    assert state_of(module) == before
    assert all(torch.equal(t, values[n]) for n, t in module.state_dict().items())
    assert torch.equal(module.first.weight.grad, torch.ones(8, 8))  # type: ignore[union-attr, arg-type]
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_module_that_fails_in_plain_pytorch_is_named() -> None:
    class OnlyTraces(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.compiler.is_exporting():
                raise ValueError("no")
            return x.sum()

    with pytest.raises(CaptureError, match="OnlyTraces fails in plain PyTorch.*ValueError: no"):
        capture_module(OnlyTraces(), torch.ones(2, requires_grad=True))


def test_the_first_module_that_differs_is_named() -> None:
    class Odd(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (2.0 if torch.compiler.is_exporting() else 1.0)

    model = nn.Sequential(nn.Linear(4, 4), Odd(4, 4), nn.Linear(4, 1))
    with pytest.raises(CaptureError, match="first module that differs is '1'"):
        capture_module(model, torch.randn(3, 4), lambda y: y.square().mean())


def test_models_that_cannot_run_here_are_said_to_be_unchecked(caplog: pytest.LogCaptureFixture) -> None:
    with hollow_parameters():
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    with caplog.at_level(logging.WARNING):
        captured = capture_module(module, torch.randn(3, 4), lambda y: y.mean())
    assert captured.unchecked == "it has no values"
    assert "not checked" in caplog.text


def test_large_models_are_not_run() -> None:
    with hollow_parameters():
        wide = nn.Linear(30_000, 30_000)
    captured = capture_module(wide, torch.randn(1, 30_000), lambda y: y.mean())
    assert "memory" in why_unchecked(captured, 1.0)
    with hollow_parameters():
        deep = nn.Sequential(nn.Linear(4096, 4096), nn.Linear(4096, 1))
    captured = capture_module(deep, torch.randn(2048, 4096), lambda y: y.mean())
    assert "FLOP" in why_unchecked(captured, 0.1)
    assert TOLERANCE < 1e-3
