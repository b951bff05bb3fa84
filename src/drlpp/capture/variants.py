"""The same module captured again: for micro-batches of other shapes, or in eval mode with its outputs.

A captured graph has the shapes of its example. What a module does with a smaller last batch, or with other lengths, is
found by capturing it again; no values are needed, and each form is captured once. The operators of a training step have
to be those of the plan, one for one; an evaluation may have others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from drlpp.capture.captured import CapturedModel
from drlpp.capture.export import ExportedModel, export_module
from drlpp.capture.loss import ModelWithLoss, loss_in, takes_target
from drlpp.capture.module_call import ModuleCall
from drlpp.capture.whole_modules import keeping_whole
from drlpp.errors import InputError
from drlpp.torch_private import TreeSpec, tree_flatten, tree_unflatten

Shapes = Mapping[str, tuple[int, ...]]
"""Input name -> shape."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A module in eval mode, with its outputs.

    Attributes:
        captured: the computation; `CapturedModel.loss` is empty where there is no loss.
        leaves: per leaf of the output, the name of its fx node; None for what is no tensor.
        constants: per leaf, what is no tensor.
        spec: how the leaves are nested.
    """

    captured: CapturedModel
    leaves: tuple[str | None, ...]
    constants: tuple[Any, ...]
    spec: TreeSpec

    def output(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """The module's output from the values of its leaves."""
        pairs = zip(self.leaves, self.constants, strict=True)
        return tree_unflatten([c if name is None else tensors[name] for name, c in pairs], self.spec)


def with_shapes(captured: CapturedModel, shapes: Shapes) -> CapturedModel:
    """The captured model for a micro-batch of other shapes, with the same operators under the same names.

    Args:
        captured: the model.
        shapes: of the inputs that differ from the example.

    Raises:
        InputError: with these shapes the module runs other operators.
        CaptureError: it cannot be captured with these shapes.
    """
    call = captured.call
    example = call.inputs
    inputs = {n: _blank(t, shapes.get(n, tuple(t.shape))) for n, t in example.items()}
    args, kwargs = call.arguments(inputs)
    with _modes(call.module, call.modes):
        exported = export_module(call.module, args, kwargs, call.loss_fn, whole=call.whole)
    _check_same_operators(captured, exported, shapes)
    return _replaced(captured, exported)


def for_evaluation(captured: CapturedModel, shapes: Shapes) -> Evaluation:
    """The module in eval mode on the given inputs; with its loss, if the inputs hold what the loss needs.

    Args:
        captured: the model.
        shapes: of the inputs that are given; the module is called with these only.

    Raises:
        CaptureError: the module cannot be captured so.
    """
    call = captured.call
    example = call.inputs
    args, kwargs = call.arguments({n: _blank(example[n], shape) for n, shape in shapes.items()})
    loss_fn = call.loss_fn
    if loss_fn is not None and takes_target(loss_fn) and not _has_target(call, shapes):
        loss_fn = None
    notes = _Notes()
    wrapper = _ModelWithOutputs(call.module, loss_fn, notes, returns_loss=call.loss_fn is None)
    modes = dict.fromkeys(call.modes, False)
    with _modes(call.module, modes):
        exported = keeping_whole(
            wrapper, lambda whole: export_module(call.module, args, kwargs, loss_fn, wrapper, {**call.whole, **whole})
        )
    results = list(exported.results)
    loss = results.pop(0) if notes.has_loss else ""
    nodes = iter(results)
    leaves = tuple(next(nodes) if is_tensor else None for is_tensor, _ in notes.leaves)
    return Evaluation(
        captured=dataclasses.replace(_replaced(captured, exported), loss=loss),
        leaves=leaves,
        constants=tuple(constant for _, constant in notes.leaves),
        spec=notes.spec,
    )


class _Notes:
    """What the export of a module tells besides its graph.

    Attributes:
        has_loss: the output carries a loss.
        leaves: per leaf of the output, whether it is a tensor, and what it is if it is none.
        spec: how they are nested.
    """

    has_loss: bool
    leaves: list[tuple[bool, Any]]
    spec: TreeSpec

    def take(self, output: Any, loss: torch.Tensor | None) -> list[torch.Tensor]:
        """Notes the form of an output; returns its tensors."""
        leaves, self.spec = tree_flatten(output)
        self.has_loss = loss is not None
        self.leaves = [(True, None) if isinstance(x, torch.Tensor) else (False, x) for x in leaves]
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


class _ModelWithOutputs(ModelWithLoss):
    """Returns the loss, where there is one, and the tensors of the module's output.

    Args:
        notes: filled when the module is called.
        returns_loss: without a loss function, the output is the loss, or carries it.
    """

    def __init__(self, model: nn.Module, loss_fn: Any, notes: _Notes, *, returns_loss: bool) -> None:
        super().__init__(model, loss_fn)
        self._returns_loss = returns_loss
        self._take = notes.take  # the object itself would be an attribute, which an export puts back as it was

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output, targets = self.call_model(args, kwargs)
        loss = self.loss_of(output, targets) if self._carries_loss(output) else None
        return (*(() if loss is None else (loss,)), *self._take(output, loss))

    def _carries_loss(self, output: Any) -> bool:
        if self.criterion is not None:
            return True
        loss = output if isinstance(output, torch.Tensor) else loss_in(output)
        return self._returns_loss and loss is not None and loss.numel() == 1 and loss.is_floating_point()


def _blank(example: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(example.shape) == shape:
        return example
    return torch.zeros(shape, dtype=example.dtype, device=example.device, requires_grad=example.requires_grad)


def _has_target(call: ModuleCall, shapes: Shapes) -> bool:
    return all(name in shapes for name in call.entries[-1].names)


@contextmanager
def _modes(module: nn.Module, modes: Mapping[str, bool]) -> Iterator[None]:
    """Within it the sub-modules are in the given modes."""
    found = dict(module.named_modules())
    before = {name: part.training for name, part in found.items()}
    try:
        for name, part in found.items():
            part.training = modes.get(name, part.training)
        yield
    finally:
        for name, part in found.items():
            part.training = before[name]


def _replaced(captured: CapturedModel, exported: ExportedModel) -> CapturedModel:
    module = exported.module
    return dataclasses.replace(
        captured,
        module=module,
        inputs=tuple(n.name for n in module.graph.nodes if n.op == "placeholder"),
        example_inputs=exported.example_inputs,
        loss=exported.loss,
        parameters=tuple(n for n, _ in module.named_parameters()),
        buffers=tuple(n for n, _ in module.named_buffers()),
        no_grad=exported.no_grad,
        no_autocast=exported.no_autocast,
        autocast=exported.autocast,
    )


def _check_same_operators(captured: CapturedModel, exported: ExportedModel, shapes: Shapes) -> None:
    ours = [(n.name, n.op, _target(n), [i.name for i in n.all_input_nodes]) for n in captured.module.graph.nodes]
    theirs = [(n.name, n.op, _target(n), [i.name for i in n.all_input_nodes]) for n in exported.module.graph.nodes]
    if ours == theirs:
        return
    odd = next((t[0] for o, t in zip(ours, theirs, strict=False) if o != t), "the number of operators")
    shown = ", ".join(f"{n} {list(s)}" for n, s in list(shapes.items())[:4])
    raise InputError(
        f"on a micro-batch with {shown} the model runs other operators than those that the plan places (the first "
        f"difference is {odd!r}): pad the micro-batch to the shapes of the example, or leave it out (drop_last)"
    )


def _target(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
