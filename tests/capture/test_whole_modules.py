"""Modules with constructs that cannot be traced are one operator, and so are loss functions."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from drlpp.capture import capture_module, whole_modules
from drlpp.capture.interpret import run_stages
from drlpp.errors import CaptureError, InputError

Tensors = tuple[torch.Tensor, torch.Tensor]


def net(part: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), part, nn.Linear(8, 4))


def batch() -> Tensors:
    return torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 1, 2])


def masked(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    kept = target != 0
    return F.cross_entropy(output[kept], target[kept])


def hard_examples(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(output, target, reduction="none")
    hard = losses[losses > 1.0]
    return hard.mean() if len(hard) else losses.mean()


class MaskedLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return masked(output * self.scale, target)


@pytest.mark.parametrize("loss_fn", [masked, hard_examples, MaskedLoss(), functools.partial(masked)])
def test_a_loss_function_is_kept_whole(loss_fn: Any, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    module, (x, y) = net(nn.Tanh()), batch()
    with caplog.at_level(logging.WARNING, "drlpp"):
        captured = capture_module(module, (x, y), loss_fn)
    assert captured.unchecked == ""
    assert "'criterion' is kept whole" in caplog.text
    assert captured.graph.num_ops == 4
    loss_fn(module(x), y).backward()
    wanted = module[0].weight.grad.clone()
    captured.module.zero_grad()
    run_stages(captured, [0, 0, 1, 1])
    torch.testing.assert_close(captured.module.get_parameter("0.weight").grad, wanted)


class ByValue(nn.Module):
    """Runs some code if a condition holds that depends on values."""

    def __init__(self, code: Callable[[Any, torch.Tensor], Any], reads: float = -1e9) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("state", torch.zeros(8))
        self.code, self.reads = code, reads

    def forward(self, x: torch.Tensor) -> Any:
        if x.square().mean() > self.reads:
            return self.code(self, x)
        return self.layer(x)


class Around(nn.Module):
    """Reads what a module returns besides a tensor."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[0]  # type: ignore[no-any-return]


class Holder:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __getitem__(self, _: int) -> torch.Tensor:
        return self.tensor


FOREIGN = nn.Linear(8, 8)


def changing(module: Any, x: torch.Tensor) -> torch.Tensor:
    module.state.add_(1)
    return module.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            ByValue(lambda m, x: FOREIGN(x)),
            r"'1' \(ByValue\) uses a trained parameter of shape \[8, 8\], .* does not own",
        ),
        (ByValue(lambda m, x: m.layer(x.add_(FOREIGN.bias.mean()))), "uses a trained parameter of shape"),
        (
            Around(ByValue(lambda m, x: (m.layer(x), float(x.abs().max())))),
            r"returns .* where it returned .* at the cap",
        ),
        (
            Around(ByValue(lambda m, x: (m.layer(x), x[x > 0.1]))),
            r"returns \[\d+\] where it returned \[0\] at the capture",
        ),
        (ByValue(changing, reads=1e-3), "changes its 'state' now and did not at the capture"),
    ],
)
def test_what_even_a_whole_module_cannot_do_is_refused(part: nn.Module, message: str) -> None:
    torch.manual_seed(1)
    with pytest.raises(CaptureError, match=message) as refusal:
        capture_module(net(part), (torch.rand(6, 8), torch.randint(0, 4, (6,))), F.cross_entropy)
    assert "\n" not in str(refusal.value)


def test_a_module_that_returns_objects_is_kept_whole_with_what_is_around_it(caplog: pytest.LogCaptureFixture) -> None:
    inner = ByValue(lambda m, x: Holder(m.layer(x)))
    with caplog.at_level(logging.WARNING, "drlpp"):
        captured = capture_module(net(Around(inner)), batch(), F.cross_entropy)
    assert captured.unchecked == ""
    assert "'1' is kept whole" in caplog.text


class OwnForward(nn.Module):
    """What it does between its layers cannot be traced."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(8, 8), nn.Linear(8, 4), between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(x)))  # type: ignore[no-any-return]


def sharpened(x: torch.Tensor) -> torch.Tensor:
    leaf = x.detach().requires_grad_()  # a leaf that the code makes itself
    (gradient,) = torch.autograd.grad(leaf.square().sum(), leaf)
    return x + leaf.sum() * 0 + gradient


OWN = {
    "if": lambda x: x * 2 if x.mean() > 0 else x,
    "loop": lambda x: x * sum(1.0 for _ in range(int(x.abs().sum()) % 3)) + x,
    "vmap": torch.func.vmap(torch.tanh),
    "numpy": lambda x: x * float(x.detach().numpy().max()),
    "derivative": sharpened,
    "rows": lambda x: x[x[:, 0] > 0].sum(0).expand(6, 8) + x,
}


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_model_whose_own_forward_cannot_be_traced_is_one_op(name: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    module, (x, y) = OwnForward(OWN[name]), batch()
    with caplog.at_level(logging.WARNING, "drlpp"):
        captured = capture_module(module, (x, y), F.cross_entropy)
    assert captured.unchecked == ""
    assert "the model is kept whole" in caplog.text
    assert "an nn.Module of its own" in caplog.text
    assert captured.graph.num_ops == 2
    assert sum(captured.graph.param_bytes.values()) == 4 * (8 * 8 + 8 + 8 * 4 + 4)
    F.cross_entropy(module(x), y).backward()
    run_stages(captured, [0, 1])
    for path, parameter in captured.module.named_parameters():
        torch.testing.assert_close(parameter.grad, module.get_parameter(path).grad)
        parameter.grad = None


def test_a_model_too_large_to_run_is_not_one_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_modules, "MAX_BYTES", 100)
    with pytest.raises(CaptureError, match=r"torch.where.*an nn.Module of its own"):
        capture_module(OwnForward(OWN["if"]), batch(), F.cross_entropy)


def test_all_modules_of_a_class_are_kept_whole_at_once(caplog: pytest.LogCaptureFixture) -> None:
    parts = nn.Sequential(*(ByValue(lambda m, x: m.layer(x)) for _ in range(3)))
    captured = capture_module(net(parts), batch(), F.cross_entropy)
    assert list(captured.call.whole) == ["model.1.0", "model.1.1", "model.1.2"]
    lines = [r.getMessage() for r in caplog.records if "is kept whole" in r.getMessage()]
    assert len(lines) == 1
    assert "'1.0' (and 2 more of its class) is kept whole" in lines[0]
    assert captured.graph.num_ops == 6


def test_shapes_that_change_with_the_first_pass_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"'1' \(ByValue\) gives its 'state' another shape, .*call the module once"):
        capture_module(net(ByValue(growing)), batch(), F.cross_entropy)


def growing(module: Any, x: torch.Tensor) -> torch.Tensor:
    module.state = torch.zeros(9)
    return module.layer(x)  # type: ignore[no-any-return]


def test_a_later_pass_that_does_otherwise_is_an_error() -> None:
    captured = capture_module(net(ByValue(changing, reads=1e6)), batch(), F.cross_entropy)
    captured.module.get_parameter("0.bias").data += 1e9
    with pytest.raises(InputError, match=r"'1' \(ByValue\) changes its 'state' now"):
        run_stages(captured, [0] * captured.graph.num_ops)


def test_a_whole_module_runs_in_the_mode_of_the_capture() -> None:
    part = ByValue(lambda m, x: F.dropout(m.layer(x), 0.5, m.training))
    captured = capture_module(net(part), batch(), F.cross_entropy)
    losses = []
    for mode in (True, False):
        part.train(mode)
        torch.manual_seed(0)
        losses.append(run_stages(captured, [0] * captured.graph.num_ops).item())
        assert part.training is mode
    assert losses[0] == losses[1]
