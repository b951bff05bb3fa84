"""The single-process run that a pipeline is compared with: the same model, seed and micro-batches, one after the other.

It runs the whole captured graph as one module, without executor, messages or schedule, and differentiates each loss
by autograd in the ordinary way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from drlpp.capture import CapturedModel
from drlpp.runtime.optimizers import Optimizer
from drlpp.runtime.stage.batches import Microbatch, draw
from drlpp.runtime.stage.precision import under_autocast
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.runtime.stage.stage_module import cut_stage, find_tensor

_CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """What training left behind.

    Attributes:
        losses: per step.
        gradients: of the first step, before the update, by parameter name. (Later steps start from parameters that
            differ by rounding, and where that moves an element across the kink of a ReLU, its gradient jumps.)
        tensors: parameters and buffers after the last update, by name.
    """

    losses: tuple[float, ...]
    gradients: Mapping[str, torch.Tensor]
    tensors: Mapping[str, torch.Tensor]


def reference_run(
    captured: CapturedModel,
    *,
    seed: int,
    num_microbatches: int,
    steps: int,
    make_optimizer: Callable[[Sequence[nn.Parameter]], Optimizer],
    batches: Sequence[Sequence[Microbatch]] | None = None,
    autocast: torch.dtype | None = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    torch_device: torch.device = _CPU,
) -> TrainingState:
    """Trains the model of `captured` in this process.

    Args:
        captured: the model; without `state_dict` its own parameters and buffers are trained.
        seed: of dropout and of the drawn micro-batches.
        num_microbatches: per step; the loss of a step is their mean.
        steps: optimizer steps.
        make_optimizer: parameters -> optimizer.
        batches: per step and micro-batch; None draws them as the pipeline does.
        autocast: element type of mixed precision.
        state_dict: values to begin with, of all parameters and buffers; they are left as they are.
        torch_device: that computes. Dropout draws other numbers on another kind of device.

    Returns:
        What the training left, on the CPU.
    """
    if autocast is not None:
        captured = under_autocast(captured, autocast, torch_device)
    context = RandomContext(seed)
    computing = [n.name for n in captured.module.graph.nodes if n.op == "call_function"]
    taken: dict[str, torch.Tensor] = {}

    def tensor(name: str) -> torch.Tensor:
        if name not in taken:
            own = find_tensor(captured.module, name)
            value = own if state_dict is None else state_dict[name].detach().clone()
            value = value if value.device == torch_device else value.detach().to(torch_device)
            fresh = isinstance(own, nn.Parameter) and value is not own
            taken[name] = nn.Parameter(value, requires_grad=own.requires_grad) if fresh else value
        return taken[name]

    whole = cut_stage(
        captured,
        dict.fromkeys(computing, 0),
        0,
        tensor,
        context,
        torch_device,
    )
    example = {name: tensor.to(torch_device) for name, tensor in captured.example_inputs.items()}
    parameters = {name: p for name, p in taken.items() if isinstance(p, nn.Parameter) and p.requires_grad}
    optimizer = make_optimizer(list(parameters.values()))
    losses, gradients = [], {}
    for step in range(steps):
        context.step = step
        total = 0.0
        for m in range(num_microbatches):
            context.microbatch = m
            given = draw(example, seed, step, m) if batches is None else batches[step][m]
            loss = dict(zip(whole.outputs, whole.module(*(given[n] for n in whole.inputs)), strict=True))[captured.loss]
            (loss / num_microbatches).backward()
            total += loss.item()
        losses.append(total / num_microbatches)
        if step == 0:
            gradients = {n: p.grad.to("cpu", copy=True) for n, p in parameters.items() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    return TrainingState(tuple(losses), gradients, {n: t.detach().to("cpu", copy=True) for n, t in taken.items()})
