"""What a stage keeps of the micro-batches that it has computed."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import fx, nn

from drlpp.runtime.stage.compute import TorchStage
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.runtime.stage.stage_module import StageModule
from drlpp.runtime.transfers.planned import StageSlots


class Low(nn.Module):
    """As mixed precision does it: autograd keeps a copy of the input, not the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return ((x.bfloat16() @ self.weight.bfloat16()).float().sum(),)


def stage(batches: dict[int, torch.Tensor], *, recompute: bool) -> TorchStage:
    """A stage that takes its micro-batches out of a table."""
    module = StageModule(0, fx.symbolic_trace(Low()), ("x",), ("loss",), {})
    return TorchStage(
        [module, module],
        StageSlots((), (), (), ()),
        [],
        loss="loss",
        loss_gradient=lambda microbatch: 1.0,
        recompute=recompute,
        context=RandomContext(0),
        microbatch=lambda microbatch: {"x": batches.pop(microbatch)},
        report_loss=lambda microbatch, loss: None,
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_only_recomputation_keeps_the_micro_batches(recompute):
    batches = {m: torch.full((2, 4), 1.0 + m) for m in range(2)}
    alive = [weakref.ref(b) for b in batches.values()]
    computes = stage(batches, recompute=recompute)
    for m in range(2):
        computes.forward(m, [])
    assert [ref() is not None for ref in alive] == [recompute, recompute]
    for m in range(2):
        computes.backward(m, [], weights=True)
    assert [ref() is not None for ref in alive] == [False, False]
    (weight,) = computes._parameters
    torch.testing.assert_close(weight.grad, torch.full((4, 4), 6.0))
