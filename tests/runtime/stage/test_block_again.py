"""Blocks of a stage that run again in the backward pass."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from drlpp.capture import CapturedModel
from drlpp.errors import ExecutionError
from drlpp.graph.blocks import Recompute, block_of_op
from drlpp.graph.stages import stage_graph
from drlpp.runtime.observe.tensor_memory import StorageTracker
from drlpp.runtime.stage.block_again import BlockAgain
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.runtime.stage.split_backward import input_gradients, weight_gradients
from drlpp.runtime.stage.stage_module import StageModule, cut_stage, find_tensor
from plan_cases import captured_model


def again(model: CapturedModel) -> dict[str, str]:
    paths = block_of_op(model.graph)
    return {node: paths[i] for node, i in model.graph.member_index.items() if paths[i]}


def whole(model: CapturedModel, blocks: dict[str, str]) -> tuple[StageModule, RandomContext]:
    """The model as one stage, with tensors of its own."""
    context, own = RandomContext(3), copy.deepcopy(model.module)
    stage = cut_stage(
        model,
        dict.fromkeys(model.graph.member_index, 0),
        0,
        lambda n: find_tensor(own, n),
        context,
        torch.device("cpu"),
        again=blocks,
    )
    return stage, context


def state(stage: StageModule) -> dict[str, torch.Tensor]:
    gradients = {f"{n}.grad": p.grad for n, p in stage.module.named_parameters() if p.grad is not None}
    return {**gradients, **dict(stage.module.named_buffers())}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blocks", "llama", "vit"])
@pytest.mark.parametrize("split", [False, True])
def test_gradients_draws_and_buffers_are_those_of_one_pass(name: str, split: bool) -> None:
    """Two micro-batches, whose backward passes run in the other order."""
    model = captured_model(name)
    found = []
    for blocks in ({}, again(model)):
        stage, context = whole(model, blocks)
        inputs = [model.example_inputs[n] for n in stage.inputs]
        made = []
        for microbatch in range(2):
            context.microbatch = microbatch
            made.append(stage.module(*inputs))
        for (loss,) in reversed(made):
            if split:
                parameters = list(stage.module.parameters())
                weight_gradients(input_gradients([loss], [torch.ones_like(loss)], [], parameters))
            else:
                loss.backward()
        found.append(state(stage))
    one, two = found
    assert one.keys() == two.keys()
    assert all(torch.equal(one[n], two[n]) for n in one)


def held_bytes(model: CapturedModel, blocks: dict[str, str]) -> int:
    """Bytes that are alive after a forward pass, beside parameters and buffers."""
    stage, _ = whole(model, blocks)
    inputs = [model.example_inputs[n] for n in stage.inputs]
    tracker = StorageTracker()
    tracker.add([*stage.module.parameters(), *stage.module.buffers()])
    before = tracker.live_bytes
    tracker.add(inputs)
    tracker.start()
    loss = stage.module(*inputs)
    tracker.stop()
    assert loss[0].requires_grad
    return tracker.live_bytes - before


def test_what_is_held_is_what_is_predicted() -> None:
    model = captured_model("llama")
    stages = stage_graph(model.graph, np.zeros(model.graph.num_ops, dtype=np.int64), 1)
    assert held_bytes(model, {}) == pytest.approx(stages.kept(0, Recompute.NONE).held, rel=0.05)
    assert held_bytes(model, again(model)) == pytest.approx(stages.kept(0, Recompute.BLOCK).held, rel=0.05)


def test_one_block_is_there_at_a_time() -> None:
    parts: list[Any] = [nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(5))) for _ in range(6)]
    tracker = StorageTracker()
    x = torch.randn(1000, 4)
    value = x.nbytes
    alive = []
    for parameter in nn.ModuleList(parts).parameters():
        parameter.register_hook(lambda _: alive.append(tracker.live_bytes / value))
    tracker.start()
    for part in parts:
        x = BlockAgain(part, "", frozenset(), RandomContext(0))(x)
    held = tracker.live_bytes / value
    x.sum().backward()
    tracker.stop()
    assert held == pytest.approx(6, abs=0.5)  # what leaves each block
    assert 10 < max(alive) < 6 + 5 + 4  # one block's values, and gradients at work


class Moody(nn.Module):
    """Saves more in its second forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return x.sin().exp() if self.passes > 1 else x.sin()


def test_a_block_that_does_something_else_when_it_runs_again() -> None:
    block: Any = Moody()
    x = torch.ones(3, requires_grad=True)
    y = BlockAgain(block, "layers.0", frozenset(), RandomContext(0))(x * 2)
    with pytest.raises(ExecutionError, match=r"block 'layers.0' saved 1 tensors in its forward pass and 2 when it ran"):
        y.sum().backward()
