"""Ops inside a whole step: all of the step is given to one of them, and the heaviest gets the most."""

from __future__ import annotations

import time

import torch
from torch import nn

from capture_models import inputs_of
from drlpp.capture import capture_module
from drlpp.capture.times_in_step import times_in_step


def test_the_heaviest_op_takes_the_most() -> None:
    module = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8))
    captured = capture_module(module, (torch.randn(512, 8),), lambda out: out.square().mean())
    began = time.process_time()
    found = times_in_step(captured, 3)
    spent = time.process_time() - began
    assert list(found) == [op.name for op in captured.graph.ops]
    heaviest = max(captured.graph.ops, key=lambda op: op.forward.flop).name
    for part in (0, 1):
        assert max(found, key=lambda name: found[name][part]) == heaviest
    assert 0 < sum(map(sum, found.values())) < spent
    for p in module.parameters():
        p.grad = None


def test_what_has_no_gradient_has_no_backward_pass() -> None:
    captured = capture_module(*inputs_of("branchy"))
    found = times_in_step(captured, 1)
    assert all(ahead >= 0 and back >= 0 for ahead, back in found.values())
    assert all(found[op.name][1] > 0 for op in captured.graph.ops if op.params)
