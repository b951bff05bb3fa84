"""The single-process run that a pipeline is compared with: the same model, seed and micro-batches, one after the other.

It is the user's own module in plain PyTorch, in the modes in which it was made; the captured graph says only which
random numbers the pipeline draws (`same_draws`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from drlpp.capture import CapturedModel
from drlpp.capture.own_model import OwnModel, left_alone
from drlpp.runtime.optimizers import Optimizer
from drlpp.runtime.stage.batches import Microbatch, draw, number_of_samples
from drlpp.runtime.stage.randomness import RandomContext, is_random
from drlpp.runtime.stage.stage_module import cut_stage, find_tensor
from drlpp.runtime.verify.same_draws import SameDraws, drawing_ops

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
    batches: Sequence[Sequence[tuple[Microbatch, float]]] | None = None,
    autocast: torch.dtype | None = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    torch_device: torch.device = _CPU,
    own: OwnModel | None = None,
) -> TrainingState:
    """Trains the user's module in this process, and leaves it as it was.

    Args:
        captured: the model; without `state_dict` it starts from the values that its module has.
        seed: of dropout and of the drawn micro-batches.
        num_microbatches: per step; the loss of a step is their mean.
        steps: optimizer steps.
        make_optimizer: parameters -> optimizer.
        batches: per step, its micro-batches with the share of each in the loss; None draws them as the pipeline does.
        autocast: element type of mixed precision.
        state_dict: values to begin with, by the names that parameters and buffers have in the graph.
        torch_device: that computes. Dropout draws other numbers on another kind of device.
        own: the module; that of `captured` if not given. It must have values.

    Returns:
        What the training left, on the CPU, of all that the graph reads or the module changed.

    Raises:
        ExecutionError: the module draws other random numbers than its graph.
    """
    own = OwnModel(captured.call) if own is None else own
    with left_alone(own), _on(torch_device, own.module):
        with torch.no_grad():
            for name, tensor in own.tensors().items():
                if state_dict is not None and name in state_dict:
                    tensor.copy_(state_dict[name])
        context = RandomContext(seed)
        draws = SameDraws(_drawing_ops(captured, own, context, torch_device), context, torch_device)
        before = {n: t.detach().clone() for n, t in own.tensors().items()}
        parameters = {n: p for n, p in own.parameters().items() if p.requires_grad}
        for parameter in parameters.values():
            parameter.grad = None
        optimizer = make_optimizer(list(parameters.values()))
        region = torch.autocast(torch_device.type, dtype=autocast, enabled=autocast is not None, cache_enabled=False)
        losses: list[float] = []
        gradients: dict[str, torch.Tensor] = {}
        samples = number_of_samples(captured.call.inputs)

        def drawn(step: int) -> list[tuple[Microbatch, float]]:
            parts = [draw(captured.example_inputs, seed, step, m, samples) for m in range(num_microbatches)]
            return [(part, 1 / num_microbatches) for part in parts]

        for step in range(steps):
            context.step, total = step, 0.0
            for m, (given, share) in enumerate(drawn(step) if batches is None else batches[step]):
                context.microbatch = m
                with draws:
                    with region:
                        loss = own.loss({n: t.to(torch_device) for n, t in given.items()})
                    (loss * share).backward()
                total += loss.item() * share
            losses.append(total)
            if step == 0:
                gradients = {n: p.grad.to("cpu", copy=True) for n, p in parameters.items() if p.grad is not None}
            optimizer.step()
            optimizer.zero_grad()
        read = {*captured.parameters, *captured.buffers}
        after = own.tensors()
        kept = [n for n, t in after.items() if n in read or (n in before and not torch.equal(t, before[n]))]
        return TrainingState(tuple(losses), gradients, {n: after[n].detach().to("cpu", copy=True) for n in kept})


@contextmanager
def _on(device: torch.device, module: nn.Module) -> Iterator[None]:
    """Moves a module to a device and back."""
    before = next((p.device for p in module.parameters()), device)
    module.to(device)
    try:
        yield
    finally:
        module.to(before)


def _drawing_ops(
    captured: CapturedModel, own: OwnModel, context: RandomContext, device: torch.device
) -> tuple[str, ...]:
    """See `same_draws.drawing_ops`: runs the forward pass of the graph once, on copies of buffers."""
    nodes = [n for n in captured.module.graph.nodes if n.op == "call_function"]
    if not any(map(is_random, nodes)):
        return ()
    held = own.tensors()

    def tensor(name: str) -> torch.Tensor:
        found = held[name] if name in held else find_tensor(captured.module, name).to(device)
        return found if isinstance(found, nn.Parameter) else found.detach().clone()

    whole = cut_stage(captured, dict.fromkeys((n.name for n in nodes), 0), 0, tensor, context, device)
    inputs = {name: value.to(device) for name, value in captured.example_inputs.items()}
    return drawing_ops(lambda: whole.module(*(inputs[n].clone() for n in whole.inputs)), context)
