"""What a trace keeps, and what it leaves behind: nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.capture.check import check_module
from drlpp.capture.export import export_module
from drlpp.capture.own_model import OwnModel
from drlpp.capture.recording import _BODIES
from drlpp.capture.tracing import keeping_gradients
from drlpp.errors import CaptureError
from habit_models import Reverse, made

PATCHED = (
    (torch.autograd.Function, "apply"),
    (Reverse, "forward"),
    (torch.Tensor, "register_hook"),
    (torch.Tensor, "data"),
    (torch.Tensor, "requires_grad"),
    (torch.Tensor, "requires_grad_"),
    (torch.autograd.grad_mode.inference_mode, "__enter__"),
    (nn.modules.batchnorm._BatchNorm, "forward"),
)


def test_nothing_stays_patched() -> None:
    before = [vars(owner).get(name) for owner, name in PATCHED]
    with pytest.raises(RuntimeError, match="stop"), keeping_gradients(nn.Linear(2, 2)):
        raise RuntimeError("stop")
    export_module(*made("ReversedGradient"), {})
    assert [vars(owner).get(name) for owner, name in PATCHED] == before
    assert not _BODIES


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("ReversedGradient", "reverse"),
        ("ReversedByAnEarlyName", "reverse"),
        ("Quantised", "quantise"),
        ("TensorHook", "gradient_hook"),
        ("ModuleBackwardHook", "linear"),
    ],
)
def test_each_call_is_one_op_with_costs(name: str, node: str) -> None:
    captured = capture_module(*made(name))
    (call,) = captured.user_calls
    assert call.__name__ == node
    graph = captured.graph
    op = graph.ops[graph.member_index[next(n.name for n in captured.module.graph.nodes if n.target is call)]]
    assert op.forward.bytes >= 0
    assert name == "TensorHook" or op.input_grad.bytes > 0


def test_two_captures_have_equal_names() -> None:
    first, second = (capture_module(*made("Quantised")) for _ in range(2))
    assert [n.name for n in first.module.graph.nodes] == [n.name for n in second.module.graph.nodes]


def test_a_hook_that_is_removed_in_forward_is_refused() -> None:
    class Removed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y.register_hook(lambda g: g).remove()
            return y.sum()

    with pytest.raises(CaptureError, match="removed in forward"):
        capture_module(Removed(), torch.ones(2, requires_grad=True))


def test_assigned_data_is_refused() -> None:
    class Assigned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y.data = x
            return y.sum()

    with pytest.raises(CaptureError, match=r"assigns to \.data"):
        capture_module(Assigned(), torch.ones(2, requires_grad=True))


def test_a_checkpoint_in_a_checkpoint_is_checked_too() -> None:
    captured = capture_module(*made("CheckpointedNorm"))
    assert check_module(captured, OwnModel(captured.call), 100.0) == ""


def test_outputs_that_are_marked_get_no_gradient() -> None:
    (call,) = capture_module(*made("Quantised")).user_calls
    assert call.without_gradient == {1}
