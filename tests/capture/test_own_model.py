"""The user's module with its loss, by the names of the graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.capture.own_model import OwnModel, left_alone, norms_of_one_process, put_back
from habit_models import made


def test_loss_and_names_are_those_of_the_graph() -> None:
    module, batch = made("NormalisedInPlace")
    captured = capture_module(module, batch)
    own = OwnModel(captured.call)
    x = torch.randn(6, 8)
    kept = x.clone()
    assert own.loss({"x": x}).item() == module(x.clone(), batch[1]).item()
    assert torch.equal(x, kept)
    assert set(captured.parameters) == set(own.parameters())
    assert set(own.tensors()) == set(own.parameters())


def test_a_loss_with_parameters_has_its_own_names() -> None:
    captured = capture_module(nn.Linear(4, 4), torch.randn(1, 4), nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)))
    assert set(captured.parameters) == set(OwnModel(captured.call).parameters())
    assert "criterion.0.weight" in captured.parameters


def test_training_leaves_no_trace() -> None:
    module, batch = made("EvalPart")
    own = OwnModel(capture_module(module, batch).call)
    before = {n: t.clone() for n, t in own.tensors().items()}
    with left_alone(own):
        own.loss({}).backward()
        with torch.no_grad():
            for t in own.parameters().values():
                t.add_(1)
        module.train()
        module.norm.requires_grad_(False)  # type: ignore[union-attr]
    assert all(torch.equal(t, before[n]) for n, t in own.tensors().items())
    assert all(p.grad is None and p.requires_grad for p in own.parameters().values())
    assert not module.norm.training  # type: ignore[union-attr]


def test_values_are_put_back() -> None:
    t = torch.zeros(2)
    put_back({"t": (t, torch.ones(2))})
    assert t.tolist() == [1, 1]


def test_synchronised_norms_ask_no_other_rank(monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    norm = nn.SyncBatchNorm(4)
    with pytest.raises(ValueError, match="GPU"):
        norm(torch.randn(3, 4))
    with norms_of_one_process():
        x = torch.randn(3, 4)
        assert torch.equal(norm(x), nn.BatchNorm1d(4)(x))
