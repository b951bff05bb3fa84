"""The reference is the user's own module in plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from drlpp.capture import capture_module
from drlpp.errors import ExecutionError
from drlpp.runtime.optimizers import optimizer_factory
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.runtime.stage.stage_module import cut_stage, find_tensor
from drlpp.runtime.verify.reference import reference_run
from drlpp.runtime.verify.same_draws import SameDraws, drawing_ops
from habit_models import made

CPU = torch.device("cpu")


class Dropped(nn.Module):
    """Dropout in and around a checkpoint, in an LSTM and in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.lstm = nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True)

    def part(self, h: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.b(F.dropout(h, 0.4)), 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.dropout(self.a(x), 0.2)
        h = checkpoint(self.part, h, use_reentrant=False) + torch.rand_like(h)
        h = h + checkpoint(self.part, h, use_reentrant=True)
        h, _ = self.lstm(h)
        return F.scaled_dot_product_attention(h, h, h, dropout_p=0.2).square().mean()


def of_the_graph(captured: Any, seed: int, microbatch: int) -> tuple[float, dict[str, torch.Tensor]]:
    context = RandomContext(seed)
    context.microbatch = microbatch
    names = dict.fromkeys((n.name for n in captured.module.graph.nodes if n.op == "call_function"), 0)
    whole = cut_stage(captured, names, 0, lambda n: find_tensor(captured.module, n), context, CPU)
    for p in captured.module.parameters():
        p.grad = None
    (loss,) = whole.module(*(captured.example_inputs[n] for n in whole.inputs))
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in captured.module.named_parameters()}


def test_the_module_draws_what_the_stages_draw_also_when_it_recomputes() -> None:
    torch.manual_seed(0)
    captured = capture_module(Dropped(), torch.randn(3, 5, 8))
    loss, gradients = of_the_graph(captured, 7, 0)
    state = reference_run(
        captured,
        seed=7,
        num_microbatches=1,
        steps=1,
        make_optimizer=optimizer_factory("sgd", 0.0),
        batches=[[(captured.example_inputs, 1.0)]],
    )
    assert state.losses[0] == pytest.approx(loss, rel=1e-6)
    assert set(state.gradients) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(state.gradients[name], gradient, rtol=1e-4, atol=1e-7)


def test_other_draws_than_those_of_the_graph_are_an_error() -> None:
    context = RandomContext(0)
    assert drawing_ops(lambda: torch.ones(2), context) == ()
    draws = SameDraws(("dropout",), context, CPU)
    with draws:
        torch.rand(2)
        with pytest.raises(ExecutionError, match="draws random numbers 2 times, its graph 1 times"):
            torch.rand(2)


def test_the_module_is_left_as_it_was_and_may_start_elsewhere() -> None:
    module, batch = made("EvalPart")
    captured = capture_module(module, batch)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    other = {n: t + 1 for n, t in before.items()}
    run: dict[str, Any] = {
        "seed": 0,
        "num_microbatches": 2,
        "steps": 2,
        "make_optimizer": optimizer_factory("sgd", 0.1),
    }
    own, moved = reference_run(captured, **run), reference_run(captured, **run, state_dict=other)
    assert own.losses != moved.losses
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert torch.equal(own.tensors["norm.running_mean"], before["norm.running_mean"])
