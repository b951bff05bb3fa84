"""Random ops draw the same numbers wherever they run."""

from __future__ import annotations

import torch

from drlpp.runtime.stage.randomness import RandomContext, SeededOp, is_random


def test_seeded_op() -> None:
    context = RandomContext(seed=5)
    op = SeededOp(torch.ops.aten.dropout.default, "drop", context)
    x = torch.ones(64)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = op(x, 0.5, True)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(op(x, 0.5, True), first)
    for change in ("seed", "step", "microbatch"):
        setattr(context, change, getattr(context, change) + 1)
        assert not torch.equal(op(x, 0.5, True), first)
        setattr(context, change, getattr(context, change) - 1)
    other = SeededOp(torch.ops.aten.dropout.default, "drop_1", context)
    assert not torch.equal(other(x, 0.5, True), first)


def test_is_random() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    assert is_random(graph.call_function(torch.ops.aten.dropout.default, (x, 0.5, True)))
    assert is_random(graph.call_function(torch.ops.aten.rand_like.default, (x,)))
    assert not is_random(graph.call_function(torch.ops.aten.relu.default, (x,)))
    assert not is_random(x)
