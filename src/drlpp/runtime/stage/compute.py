"""What one stage computes: the forward and backward passes of its module, by autograd.

The graph of autograd is cut at every stage boundary: received values are leaves, and gradients are handed from stage to
stage by the executor. Parameters collect their gradients in `.grad`, summed over the micro-batches.

I and W are the halves of `split_backward`, which share their work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from drlpp.graph.stages import Message
from drlpp.runtime.executor import Tensors
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.runtime.stage.split_backward import Later, input_gradients, weight_gradients
from drlpp.runtime.stage.stage_module import StageModule, find_tensor
from drlpp.runtime.transfers.planned import StageSlots
from drlpp.runtime.transfers.reduction import CombinedBuffers


@dataclasses.dataclass
class _Pass:
    """What is kept of a forward pass until its backward pass.

    Attributes:
        leaves: the received arguments of the module that need a gradient.
        inputs: all arguments (only for recomputation: autograd keeps what it needs, in low precision perhaps a copy).
        outputs: results of the module; empty if they are computed again.
        buffers: copies of the buffers that the stage writes, from before (only for recomputation).
    """

    leaves: list[torch.Tensor]
    inputs: list[torch.Tensor]
    outputs: Sequence[torch.Tensor]
    buffers: dict[str, torch.Tensor]


class TorchStage:
    """A `StageCompute` that runs the real module.

    Args:
        forms: the stage for each micro-batch of a step: one module for each form (shapes) of the micro-batches; they
            have the same parameters, inputs and outputs.
        slots, messages: what it exchanges with other stages.
        loss: name of the loss value.
        loss_gradient: micro-batch -> the gradient of its loss. Where it is 0, the micro-batch adds nothing to any
            gradient, even if its loss is not finite.
        recompute: keep only the inputs and run the forward pass again before the backward pass.
        context: of the random ops of this rank.
        microbatch: micro-batch -> its tensors by name.
        report_loss: called with micro-batch and loss where the stage computes it.
        combined_buffers: of a stage that changes buffers and has replicas or runs micro-batches out of order.
    """

    def __init__(
        self,
        forms: Sequence[StageModule],
        slots: StageSlots,
        messages: Sequence[Message],
        *,
        loss: str,
        loss_gradient: Callable[[int], float],
        recompute: bool,
        context: RandomContext,
        microbatch: Callable[[int], Mapping[str, torch.Tensor]],
        report_loss: Callable[[int, torch.Tensor], None],
        combined_buffers: CombinedBuffers | None = None,
    ) -> None:
        stage = forms[0]
        self._forms = forms
        self._runs_user_code = any(form.runs_user_code for form in forms)
        self._loss = stage.outputs.index(loss) if loss in stage.outputs else None
        self._loss_gradient = loss_gradient
        self._recompute = recompute
        self._context = context
        self._microbatch = microbatch
        self._report_loss = report_loss
        self._combined_buffers = combined_buffers
        self._kept: dict[int, _Pass] = {}
        self._later: dict[int, Later] = {}
        self._parameters = [p for p in stage.module.parameters() if p.requires_grad]

        names = [m.tensors for m in messages]
        place = {
            name: (k, i) for k, slot in enumerate(slots.forward_reads) for i, name in enumerate(names[slot.message])
        }
        leaves = {name for slot in slots.backward_writes for name in names[slot.message]}
        self._inputs = [(name, place.get(name), name in leaves) for name in stage.inputs]
        self._leaves = [i for i, name in enumerate(stage.inputs) if name in leaves]
        output, leaf = _index(stage.outputs), _index([stage.inputs[i] for i in self._leaves])
        self._values = [[output[name] for name in names[slot.message]] for slot in slots.forward_writes]
        self._arriving = [[output[name] for name in names[slot.message]] for slot in slots.backward_reads]
        self._gradients = [[leaf[name] for name in names[slot.message]] for slot in slots.backward_writes]

    def forward(self, microbatch: int, values: Sequence[Tensors]) -> Sequence[Tensors]:
        """F. See `StageCompute`."""
        given = self._microbatch(microbatch)
        inputs = []
        for name, place, leaf in self._inputs:
            tensor = given[name] if place is None else values[place[0]][place[1]].detach()
            inputs.append(tensor.requires_grad_() if leaf else tensor)
        kept = _Pass([inputs[i] for i in self._leaves], inputs if self._recompute else [], (), {})
        contribution = self._combined_buffers.zeros() if self._combined_buffers else {}
        if self._recompute:
            form = self._forms[microbatch]
            kept.buffers = {n: (contribution.get(n, form.module.get_buffer(n))).clone() for n in form.changed}
        with torch.set_grad_enabled(not self._recompute):
            outputs = self._run(microbatch, inputs, contribution)
        if not self._recompute:
            kept.outputs = outputs
        if self._combined_buffers:
            self._combined_buffers.add(microbatch, contribution)
        self._kept[microbatch] = kept
        if self._loss is not None:
            self._report_loss(microbatch, outputs[self._loss].detach())
        return [[outputs[k].detach() for k in made] for made in self._values]

    def backward(self, microbatch: int, inputs: Sequence[Tensors], *, weights: bool) -> Sequence[Tensors]:
        """B, or I. See `StageCompute`."""
        kept = self._kept.pop(microbatch)
        weights = weights or self._runs_user_code  # hooks must see whole gradients, once
        loss_gradient = self._loss_gradient(microbatch)
        if not loss_gradient:
            if not weights:
                self._later[microbatch] = Later([])
            zeros = [torch.zeros_like(x) for x in kept.leaves]
            return [[zeros[i] for i in places] for places in self._gradients]
        if self._recompute:
            kept.outputs = self._run(microbatch, kept.inputs, kept.buffers)
        gradient_of = {
            k: g
            for place, tensors in zip(self._arriving, inputs, strict=True)
            for k, g in zip(place, tensors, strict=True)
        }
        if self._loss is not None:
            own = torch.full_like(kept.outputs[self._loss], loss_gradient)
            gradient_of[self._loss] = gradient_of[self._loss] + own if self._loss in gradient_of else own
        reached = [k for k in gradient_of if kept.outputs[k].requires_grad]
        outputs, gradients = [kept.outputs[k] for k in reached], [gradient_of[k] for k in reached]
        if weights and outputs:
            torch.autograd.backward(outputs, gradients)
        elif not weights:
            self._later[microbatch] = input_gradients(outputs, gradients, kept.leaves, self._parameters)
        found = [torch.zeros_like(x) if x.grad is None else x.grad for x in kept.leaves]
        return [[found[i] for i in places] for places in self._gradients]

    def weight_gradients(self, microbatch: int) -> None:
        """W. See `StageCompute`."""
        if not self._runs_user_code:
            weight_gradients(self._later.pop(microbatch))

    def _run(
        self, microbatch: int, inputs: Sequence[torch.Tensor], buffers: Mapping[str, torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """Runs the module with other tensors in the place of some of its buffers.

        Where autograd may need what it saw until the backward pass, other micro-batches must not change that: tensors
        which the module changes are copies, and what became of them is written back.
        """
        self._context.microbatch = microbatch
        form = self._forms[microbatch]
        module = form.module
        if form.changed_inputs:  # the batch is the user's, and the pass may run again
            inputs = [x.clone() if i in form.changed_inputs else x for i, x in enumerate(inputs)]
        saves = torch.is_grad_enabled() and not self._recompute
        odd = [n for n, decay in form.changed.items() if decay is None and n not in buffers] if saves else []
        own = {name: find_tensor(module, name) for name in (*buffers, *odd)}
        if not own:
            return module.forward(*inputs)  # type: ignore[no-any-return]
        copies = {name: _copy(own[name]) for name in odd}
        try:
            _set_tensors(module, {**buffers, **copies})
            outputs = module.forward(*inputs)
        finally:
            _set_tensors(module, own)
        with torch.no_grad():
            for name, copy in copies.items():
                own[name].copy_(copy)
        return outputs  # type: ignore[no-any-return]


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of the same kind: a parameter, which changes only if it is frozen, or a buffer."""
    copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy


def _set_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, tensor)


def _index(names: Sequence[str]) -> Mapping[str, int]:
    return {name: i for i, name in enumerate(names)}
