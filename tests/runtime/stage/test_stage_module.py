"""Stages cut out of a captured model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from drlpp.capture import CapturedModel, capture_module
from drlpp.errors import PlanError
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.runtime.stage.stage_module import (
    StageModule,
    cut_stage,
    find_tensor,
    parameter_readers,
    value_spec,
    values_with_gradient,
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4, momentum=0.25)
        self.b = nn.Linear(4, 4)
        self.gate = nn.Linear(4, 3)
        self.register_buffer("window", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bn(self.a(x))
        index = self.gate(h).argmax(-1)
        with torch.no_grad():
            target = h * 2
            self.window[:2].add_(1.0)
        y = F.dropout(self.b(h), 0.5, True) + F.one_hot(index, 4)
        return F.mse_loss(y, target)


def captured() -> CapturedModel:
    torch.manual_seed(0)
    return capture_module(Model(), torch.randn(3, 4))


def cut(model: CapturedModel, stage_of: dict[str, int], index: int) -> StageModule:
    return cut_stage(
        model, stage_of, index, lambda n: find_tensor(model.module, n), RandomContext(0), torch.device("cpu")
    )


def halves(model: CapturedModel, first: str) -> dict[str, int]:
    """Stage 1 is `first` and what follows in the graph."""
    names = [n.name for n in model.module.graph.nodes if n.op == "call_function"]
    return {n: int(i >= names.index(first)) for i, n in enumerate(names)}


def test_two_stages_are_the_whole() -> None:
    model = captured()
    x = model.example_inputs["x"]
    names = [n.name for n in model.module.graph.nodes if n.op == "call_function"]
    whole = cut(model, dict.fromkeys(names, 0), 0)
    assert whole.inputs == ("x",)
    (expected,) = whole.module(x)
    stage_of = halves(model, "linear_1")
    first, second = cut(model, stage_of, 0), cut(model, stage_of, 1)
    values = dict(zip(first.outputs, first.module(x), strict=True))
    (loss,) = second.module(*(values[n] for n in second.inputs))
    assert second.outputs == (model.loss,)
    assert torch.equal(loss, expected)
    assert sorted(n for n, _ in first.module.named_parameters()) == ["a.bias", "a.weight", "bn.bias", "bn.weight"]
    assert next(first.module.parameters()) is find_tensor(model.module, "a.weight")


def test_changed_buffers() -> None:
    model = captured()
    names = [n.name for n in model.module.graph.nodes if n.op == "call_function"]
    changed = cut(model, dict.fromkeys(names, 0), 0).changed
    assert changed == {
        "bn.running_mean": 0.75,
        "bn.running_var": 0.75,
        "bn.num_batches_tracked": 1.0,
        "window": None,
    }


def test_gradient_modes_and_values_with_gradient() -> None:
    model = captured()
    x = model.example_inputs["x"]
    stage = cut(model, halves(model, "broadcast_tensors"), 0)
    outputs = dict(zip(stage.outputs, stage.module(x), strict=True))
    assert {n: o.requires_grad for n, o in outputs.items()} == {"add": True, "mul": False}
    assert torch.is_grad_enabled()
    trained = values_with_gradient(model)
    assert {"linear", "batch_norm", "linear_2", model.loss} <= trained
    assert not {"mul", "linear_1"} & trained  # without gradients; only an argmax of it is used
    readers = parameter_readers(model, halves(model, "broadcast_tensors"))
    assert readers == dict.fromkeys(["a.weight", "a.bias", "bn.weight", "bn.bias", "b.weight", "b.bias"], (0,))


class Experts(nn.Module):
    """Adds to zeros of the shape of an activation, as loops over experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return (torch.zeros_like(h) + self.b(h)).square().mean()


class Filled(nn.Module):
    """Writes values into memory that begins without a gradient; `write` says how."""

    def __init__(self, write: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.write = nn.Linear(4, 4), nn.Linear(4, 4), write

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros(3, 4)
        before, aside = kept[:, 1:], kept.detach()
        self.write(kept, torch.tanh(self.a(x)))
        return self.b(kept).square().mean() + (before + torch.exp(aside[:, 1:])).mean()


def in_rows(kept: torch.Tensor, h: torch.Tensor) -> None:
    for i in range(3):
        kept[i] = h[i]


WRITES = {
    "slice": lambda kept, h: kept[:, :2].copy_(h[:, :2]),
    "assign": lambda kept, h: kept.__setitem__((slice(None), slice(2, None)), h[:, 2:] * 2),
    "add": lambda kept, h: kept[:, :2].add_(h[:, 2:]),
    "rows": in_rows,
    "index": lambda kept, h: kept.index_add_(0, torch.tensor([0, 2, 0]), h),
    "scatter": lambda kept, h: kept.scatter_(1, torch.tensor([[0, 1, 2, 3]] * 3), h),
    "put": lambda kept, h: kept.index_put_((torch.tensor([2, 1, 0]),), h),
    "view": lambda kept, h: kept.view(12)[2:6].mul_(0.5).add_(h[0]),
}


@pytest.mark.parametrize("name", sorted(WRITES))
def test_values_written_into_memory_have_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    module, x = Filled(WRITES[name]), torch.randn(3, 4)
    model = capture_module(module, x)
    names = values_with_gradient(model)
    truth = {e.tensor: e.requires_grad for e in model.graph.edges}
    assert any(truth.values())
    assert truth == {tensor: tensor in names for tensor in truth}
    assert set(parameter_readers(model, dict.fromkeys(model.op_of_node, 0))) == {
        "a.weight",
        "a.bias",
        "b.weight",
        "b.bias",
    }


def test_runtime_and_graph_agree_on_the_values_with_a_gradient() -> None:
    model = capture_module(Experts(), torch.randn(3, 4))
    names = values_with_gradient(model)
    assert "zeros_like" not in names
    assert {e.tensor: e.requires_grad for e in model.graph.edges} == {
        e.tensor: e.tensor in names for e in model.graph.edges
    }


def test_value_spec() -> None:
    spec = value_spec(captured())
    assert (spec["linear"].shape, spec["linear"].dtype) == ((3, 4), torch.float32)


def test_attribute_that_is_no_tensor() -> None:
    model = captured()
    model.module.odd = 3  # type: ignore[assignment]
    with pytest.raises(PlanError, match="attribute 'odd' of the model is a int: only tensors can be placed"):
        find_tensor(model.module, "odd")
