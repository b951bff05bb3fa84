"""Runs a captured model stage by stage in one process, as a pipeline would: every boundary detached."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import fx

from drlpp.capture import CapturedModel
from drlpp.graph import OpGraph


def random_partition(graph: OpGraph, num_stages: int, rng: np.random.Generator) -> list[int]:
    """A random legal partition: stage(u) <= stage(v) on every edge, sources anywhere, many branches."""
    stages: list[int] = []
    for before in graph.predecessors:
        source = int(rng.integers(num_stages)) if rng.random() < 0.3 and stages else 0
        low = max((stages[i] for i in before), default=source)
        jump = rng.random() < num_stages / min(graph.num_ops, 60)
        stages.append(min(num_stages - 1, low + int(jump)))
    return stages


def tensor_of(module: torch.nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def run_stagewise(captured: CapturedModel, stage_of_op: list[int]) -> torch.Tensor:
    """Forward and backward of all stages; gradients end in the parameters. Returns the loss."""
    stage_of = {m: stage_of_op[captured.graph.index[op]] for m, op in captured.op_of_node.items()}
    nodes = list(captured.module.graph.nodes)
    sent: dict[fx.Node, torch.Tensor] = {}
    tape = []
    for stage in sorted(set(stage_of_op)):
        env: dict[fx.Node, Any] = {}
        received: dict[fx.Node, torch.Tensor] = {}

        def load(node: fx.Node) -> Any:
            if node in env:
                return env[node]
            if node.op == "placeholder":
                value = captured.example_inputs[node.name].clone()
            elif node.op == "get_attr":
                value = tensor_of(captured.module, str(node.target))
            else:
                source = sent[node]
                value = source.detach().clone().requires_grad_(source.requires_grad)
                received[node] = value
                if value.requires_grad:  # so that in-place operators of this stage do not meet a leaf
                    value = value.view_as(value)
            env[node] = value
            return value

        for node in nodes:
            if node.op != "call_function" or stage_of[node.name] != stage:
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), load)
            region = captured.autocast.get(node.name)
            with (
                torch.set_grad_enabled(node.name not in captured.no_grad),
                torch.autocast(*region[:1], dtype=region[1], enabled=region[2]) if region else nullcontext(),
            ):
                env[node] = node.target(*args, **kwargs)
        outputs = {}
        for node, value in env.items():
            if node.op == "call_function" and stage_of[node.name] == stage:
                if any(u.op == "output" or stage_of[u.name] != stage for u in node.users):
                    assert isinstance(value, torch.Tensor), f"{node} is no tensor but crosses a boundary"
                    outputs[node] = sent[node] = value
        tape.append((outputs, received))
    loss_node = next(n for n in nodes if n.name == captured.loss)
    gradients: dict[fx.Node, list[torch.Tensor]] = defaultdict(list)
    gradients[loss_node].append(torch.ones(()))
    for outputs, received in reversed(tape):
        pairs = [(v, sum(gradients[n])) for n, v in outputs.items() if v.requires_grad and gradients[n]]
        if pairs:
            torch.autograd.backward([v for v, _ in pairs], [g for _, g in pairs])
        for node, value in received.items():
            if value.grad is not None:
                gradients[node].append(value.grad)
    return sent[loss_node]
