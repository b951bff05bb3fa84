"""A captured model under autocast computes what the module computes under autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module, hollow_parameters
from drlpp.errors import InputError
from drlpp.runtime import reference_run
from drlpp.runtime.optimizers import optimizer_factory
from drlpp.runtime.stage.precision import under_autocast
from drlpp.runtime.stage.stage_module import value_spec
from small_models import ALL

CPU = torch.device("cpu")
WITHOUT_DROPOUT = [n for n in ALL if n not in ("dropout_attention", "recurrent", "blocks")]


def made(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(1)
    return ALL[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_DROPOUT)
def test_equals_the_module_under_autocast(name: str) -> None:
    module, inputs = made(name)
    captured = capture_module(*made(name))
    batch = dict(zip(captured.inputs, inputs, strict=True))
    state = reference_run(
        captured,
        seed=0,
        num_microbatches=1,
        steps=1,
        make_optimizer=optimizer_factory("sgd", 0.1),
        batches=[[(batch, 1.0)]],
        autocast=torch.bfloat16,
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(*inputs)
    loss.backward()
    assert state.losses[0] == pytest.approx(loss.item(), rel=1e-6)
    gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    assert set(state.gradients) == set(gradients)
    size = max(float(g.norm()) for g in gradients.values())
    for key, gradient in gradients.items():  # a weight that is read twice is cast twice, and its gradients are rounded
        assert float((state.gradients[key] - gradient).norm()) < 0.02 * float(gradient.norm()) + 1e-3 * size, key
    for key, buffer in module.named_buffers():
        assert torch.allclose(state.tensors[key].float(), buffer.float(), rtol=1e-5), key


def test_values_between_stages_have_the_types_of_autocast() -> None:
    captured = capture_module(*made("chain"))
    types = {name: spec.dtype for name, spec in value_spec(under_autocast(captured, torch.bfloat16, CPU)).items()}
    assert types["linear"] == types["tanh"] == torch.bfloat16
    assert types[captured.loss] == torch.float32
    assert value_spec(captured)["linear"].dtype == torch.float32


def test_buffers_are_left_alone() -> None:
    captured = capture_module(*made("branches"))
    before = {n: b.clone() for n, b in captured.module.named_buffers()}
    under_autocast(captured, torch.bfloat16, CPU)
    assert all(torch.equal(b, before[n]) for n, b in captured.module.named_buffers())


def test_models_without_values() -> None:
    with hollow_parameters():
        module, inputs = made("tied")
    captured = under_autocast(capture_module(module, inputs), torch.bfloat16, CPU)
    assert value_spec(captured)["linear"].dtype == torch.bfloat16


class Careful(nn.Module):
    """Switches autocast off where it matters, and on where it wants another type."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        with torch.autocast("cpu", enabled=False):
            h = self.b(h.float())
        return h.square().mean()


def test_regions_without_autocast_stay_so() -> None:
    captured = capture_module(Careful(), (torch.randn(3, 4),))
    types = {n: s.dtype for n, s in value_spec(under_autocast(captured, torch.bfloat16, CPU)).items()}
    assert types["linear"] == torch.bfloat16
    assert types["linear_1"] == torch.float32


class Stuck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.scatter_add(self.b, 0, torch.zeros(3, 4, dtype=torch.int64), self.a(x)).mean()


def test_an_op_that_cannot_run_is_named() -> None:
    captured = capture_module(Stuck(), (torch.randn(3, 4),))
    with pytest.raises(InputError, match=r"op '\w+' cannot run under torch.bfloat16 autocast: .*"):
        under_autocast(captured, torch.bfloat16, CPU)
