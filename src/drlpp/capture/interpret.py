"""Runs a captured model stage by stage in one process, with every boundary detached, as a pipeline would.

This is the check that a partition of the ops trains exactly as the whole: no processes, no schedule, one micro-batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import fx

from drlpp.capture.captured import CapturedModel
from drlpp.errors import CaptureError, PlanError


def attribute(module: torch.nn.Module, path: str) -> Any:
    """The parameter, buffer or submodule at a dotted path."""
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def run_stages(
    captured: CapturedModel,
    stage_of_op: Sequence[int],
    inputs: Mapping[str, torch.Tensor] | None = None,
    watch: Callable[[fx.Node, Any], None] | None = None,
    between: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Runs forward and backward of one micro-batch; gradients are added to the parameters of `captured.module`.

    Args:
        captured: a model with values (captured on ``cpu``).
        stage_of_op: ``[num_ops]`` stage of each op of `captured.graph`, a legal partition.
        inputs: placeholder name -> tensor; the example micro-batch if not given.
        watch: called with every fx node that computes and its value.
        between: called between the forward and the backward pass.

    Returns:
        The loss (a scalar).

    Raises:
        CaptureError: the model was captured without values.
        PlanError: a value is needed in a stage before the one that makes it.
    """
    if not captured.has_values:
        raise CaptureError(
            f"{captured.graph.name!r} was captured without values: capture it with device='cpu' to run it"
        )
    run = _Run(captured, stage_of_op, captured.example_inputs if inputs is None else inputs)
    run.watch = watch
    for stage in sorted(set(stage_of_op)):
        run.forward(stage)
    if between is not None:
        between()
    return run.backward()


def run_forward(captured: CapturedModel) -> None:
    """Runs the forward pass of the example micro-batch of a model with values, recording no gradients."""
    run = _Run(captured, [0] * captured.graph.num_ops, captured.example_inputs)
    run.records = False
    run.forward(0)


class _Run:
    def __init__(self, captured: CapturedModel, stage_of_op: Sequence[int], inputs: Mapping[str, torch.Tensor]) -> None:
        self.records = True
        self.watch: Callable[[fx.Node, Any], None] | None = None
        self._captured = captured
        self._inputs = inputs
        self._nodes = [n for n in captured.module.graph.nodes if n.op == "call_function"]
        op_index = captured.graph.index
        self._stage = {n: stage_of_op[op_index[captured.op_of_node[n.name]]] for n in self._nodes}
        self._sent: dict[fx.Node, torch.Tensor] = {}
        self._tape: list[tuple[dict[fx.Node, torch.Tensor], dict[fx.Node, torch.Tensor]]] = []

    def forward(self, stage: int) -> None:
        values: dict[fx.Node, Any] = {}
        received: dict[fx.Node, torch.Tensor] = {}

        def load(node: fx.Node) -> Any:
            if node not in values:
                values[node] = self._outside_value(node, stage, received)
            return values[node]

        mine = [n for n in self._nodes if self._stage[n] == stage]
        outputs: dict[fx.Node, torch.Tensor] = {}
        last = {source: node for node in mine for source in (*node.all_input_nodes, node)}
        done: dict[fx.Node, list[fx.Node]] = defaultdict(list)  # what is read for the last time
        for source, node in last.items():
            done[node].append(source)
        for node in mine:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), load)
            with torch.set_grad_enabled(self.records and node.name not in self._captured.no_grad), self._autocast(node):
                values[node] = node.target(*args, **kwargs)
            if self.watch is not None:
                self.watch(node, values[node])
            if any(self._stage.get(u) != stage for u in node.users):
                outputs[node] = values[node]
            for source in done[node]:  # as a pipeline frees it
                values.pop(source, None)
            del args, kwargs
        self._sent |= outputs
        self._tape.append((outputs, received))

    def _outside_value(self, node: fx.Node, stage: int, received: dict[fx.Node, torch.Tensor]) -> Any:
        if node.op == "placeholder":
            return self._inputs[node.name].clone()
        if node.op == "get_attr":
            return attribute(self._captured.module, str(node.target))
        if node not in self._sent:
            raise PlanError(f"value {node.name!r} is needed in stage {stage} before stage {self._stage[node]} makes it")
        source = self._sent[node]
        received[node] = source.detach().clone().requires_grad_(source.requires_grad)
        # In-place operators of this stage must not meet a leaf that requires a gradient.
        return received[node].view_as(received[node]) if source.requires_grad else received[node]

    def _autocast(self, node: fx.Node) -> AbstractContextManager[Any]:
        region = self._captured.autocast.get(node.name)
        if region is None:
            return nullcontext()
        device_type, dtype, enabled, cache = region
        return torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache)

    def backward(self) -> torch.Tensor:
        loss = next(n for n in self._nodes if n.name == self._captured.loss)
        gradients: dict[fx.Node, list[torch.Tensor]] = defaultdict(list)
        gradients[loss].append(torch.ones_like(self._sent[loss]))
        for outputs, received in reversed(self._tape):
            wanted = [n for n, value in outputs.items() if value.requires_grad and gradients[n]]
            if wanted:
                given = [torch.stack(gradients[n]).sum(0) if len(gradients[n]) > 1 else gradients[n][0] for n in wanted]
                torch.autograd.backward([outputs[n] for n in wanted], given)
            for node, value in received.items():
                if value.grad is not None:
                    gradients[node].append(value.grad)
        return self._sent[loss].detach()
