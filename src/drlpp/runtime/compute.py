"""What one stage computes: the forward and backward passes of its module, by autograd.

The graph of autograd is cut at every stage boundary: received values are leaves, and gradients are handed from stage to
stage by the executor. Parameters collect their gradients in `.grad`, summed over the micro-batches.

I and W are the halves of `split_backward`, which share their work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from drlpp.graph.stages import Message
from drlpp.runtime.executor import Tensors
from drlpp.runtime.messages import Slot, StageSlots
from drlpp.runtime.randomness import RandomContext
from drlpp.runtime.reduction import CombinedBuffers
from drlpp.runtime.split_backward import Later, input_gradients, weight_gradients
from drlpp.runtime.stage_module import StageModule


@dataclasses.dataclass
class _Pass:
    """What is kept of a forward pass until its backward pass.

    Attributes:
        inputs: arguments of the module; the received ones that need a gradient are leaves.
        outputs: results of the module; empty if they are computed again.
        buffers: copies of the buffers that the stage writes, from before (only for recomputation).
        later: what W needs, kept from I to W.
    """

    inputs: list[torch.Tensor]
    outputs: Sequence[torch.Tensor]
    buffers: dict[str, torch.Tensor]
    later: Later | None = None


class TorchStage:
    """A `StageCompute` that runs the real module.

    Args:
        stage: the module.
        slots, messages: what it exchanges with other stages.
        loss: name of the loss value; its gradient is ``1 / num_microbatches``.
        num_microbatches: of a step.
        recompute: keep only the inputs and run the forward pass again before the backward pass.
        context: of the random ops of this rank.
        microbatch: micro-batch -> its tensors by name.
        report_loss: called with micro-batch and loss where the stage computes it.
        combined_buffers: of a stage that changes buffers and has replicas or runs micro-batches out of order.
    """

    def __init__(
        self,
        stage: StageModule,
        slots: StageSlots,
        messages: Sequence[Message],
        *,
        loss: str,
        num_microbatches: int,
        recompute: bool,
        context: RandomContext,
        microbatch: Callable[[int], Mapping[str, torch.Tensor]],
        report_loss: Callable[[int, torch.Tensor], None],
        combined_buffers: CombinedBuffers | None = None,
    ) -> None:
        self.stage = stage
        self._slots = slots
        self._names = {slot: messages[slot.message].tensors for slot in (*slots.forward_reads, *slots.forward_writes)}
        self._with_gradient = {name for slot in slots.backward_writes for name in messages[slot.message].tensors}
        self._loss = loss
        self._num_microbatches = num_microbatches
        self._recompute = recompute
        self._context = context
        self._microbatch = microbatch
        self._report_loss = report_loss
        self._combined_buffers = combined_buffers
        self._kept: dict[int, _Pass] = {}
        self._parameters = [p for p in stage.module.parameters() if p.requires_grad]

    def forward(self, microbatch: int, values: Mapping[Slot, Tensors]) -> Mapping[Slot, Tensors]:
        """F. See `StageCompute`."""
        received = {
            name: t for slot, tensors in values.items() for name, t in zip(self._names[slot], tensors, strict=True)
        }
        given = self._microbatch(microbatch)
        inputs = []
        for name in self.stage.inputs:
            tensor = received[name].detach() if name in received else given[name]
            inputs.append(tensor.requires_grad_() if name in self._with_gradient else tensor)
        kept = _Pass(inputs, (), {})
        contribution = self._combined_buffers.zeros() if self._combined_buffers else {}
        if self._recompute:
            module = self.stage.module
            kept.buffers = {n: (contribution.get(n, module.get_buffer(n))).clone() for n in self.stage.changed}
        with torch.set_grad_enabled(not self._recompute):
            outputs = self._run(microbatch, inputs, contribution)
        if not self._recompute:
            kept.outputs = outputs
        if self._combined_buffers:
            self._combined_buffers.add(microbatch, contribution)
        self._kept[microbatch] = kept
        by_name = dict(zip(self.stage.outputs, outputs, strict=True))
        if self._loss in by_name:
            self._report_loss(microbatch, by_name[self._loss].detach())
        return {
            slot: tuple(by_name[name].detach() for name in self._names[slot]) for slot in self._slots.forward_writes
        }

    def backward(self, microbatch: int, inputs: Mapping[Slot, Tensors], *, weights: bool) -> Mapping[Slot, Tensors]:
        """B, or I. See `StageCompute`."""
        kept = self._kept.pop(microbatch)
        if self._recompute:
            kept.outputs = self._run(microbatch, kept.inputs, kept.buffers)
        gradient_of = {
            name: g
            for slot, tensors in inputs.items()
            for name, g in zip(self._names[Slot(slot.message, "value")], tensors, strict=True)
        }
        outputs, gradients = [], []
        for name, output in zip(self.stage.outputs, kept.outputs, strict=True):
            gradient = gradient_of.get(name)
            if name == self._loss:
                own = torch.full_like(output, 1.0 / self._num_microbatches)
                gradient = own if gradient is None else gradient + own
            if gradient is not None and output.requires_grad:
                outputs.append(output)
                gradients.append(gradient)
        leaves = {
            name: x for name, x in zip(self.stage.inputs, kept.inputs, strict=True) if name in self._with_gradient
        }
        found: dict[str, torch.Tensor | None] = {}
        if weights:
            if outputs:
                torch.autograd.backward(outputs, gradients)
            found = {name: x.grad for name, x in leaves.items()}
        else:
            later = None
            if outputs:
                parts, later = input_gradients(outputs, gradients, list(leaves.values()), self._parameters)
                found = dict(zip(leaves, parts, strict=True))
            self._kept[microbatch] = _Pass([], outputs, {}, later)
        zero_filled = {n: torch.zeros_like(x) if (g := found.get(n)) is None else g for n, x in leaves.items()}
        return {
            slot: tuple(zero_filled[name] for name in self._names[Slot(slot.message, "value")])
            for slot in self._slots.backward_writes
        }

    def weight_gradients(self, microbatch: int) -> None:
        """W. See `StageCompute`."""
        kept = self._kept.pop(microbatch)
        if kept.later is None or not self._parameters:
            return
        found = weight_gradients(kept.later, self._parameters)
        for parameter, gradient in zip(self._parameters, found, strict=True):
            if gradient is not None and parameter.grad is None:
                parameter.grad = gradient.clone()
            elif gradient is not None and parameter.grad is not None:
                parameter.grad.add_(gradient)

    def _run(
        self, microbatch: int, inputs: Sequence[torch.Tensor], buffers: Mapping[str, torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """Runs the module with other tensors in the place of some of its buffers."""
        self._context.microbatch = microbatch
        own = {name: self.stage.module.get_buffer(name) for name in buffers}
        try:
            self._set_buffers(buffers)
            return self.stage.module(*inputs)  # type: ignore[no-any-return]
        finally:
            self._set_buffers(own)

    def _set_buffers(self, buffers: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in buffers.items():
            owner, _, last = name.rpartition(".")
            setattr(self.stage.module.get_submodule(owner), last, tensor)
