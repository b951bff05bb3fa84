from __future__ import annotations

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module, whole_modules
from drlpp.capture.failures import capture_error
from drlpp.errors import CaptureError


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


class Wrong(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.ones(99, 1)


def model(inner: nn.Module) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(2, 2), inner])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x.sum()

    return Model()


def test_control_flow_that_depends_on_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_modules, "MAX_BYTES", -1)  # it is not kept whole
    with pytest.raises(CaptureError) as raised:
        capture_module(Gate(), torch.ones(3, 2))
    text = str(raised.value)
    assert "module Gate" in text
    assert "nn.Module of its own" in text
    assert "test_failures.py" in text
    assert "if x.sum() > 0" in text
    assert "torch.where" in text
    assert "\n" not in text


def test_errors_of_the_model_itself():
    with pytest.raises(CaptureError, match=r"blocks\.1.*x @ torch.ones.*plain PyTorch"):
        capture_module(model(Wrong()), torch.ones(3, 2))


def test_failures_without_a_frame_in_the_model():
    text = str(capture_error(MemoryError("x" * 300), nn.Linear(1, 1)))
    assert "module Linear cannot be captured at an unknown place: MemoryError" in text
    assert "smaller micro-batch" in text
    assert len(text) < 500


def test_export_prints_nothing(capfd):
    with pytest.raises(CaptureError):
        capture_module(Gate(), torch.ones(3, 2))
    assert capfd.readouterr() == ("", "")
