"""The captured model: its operator graph and the computation that the ops stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from drlpp.capture.model_state import loss_tensors, module_tensors
from drlpp.capture.module_call import ModuleCall
from drlpp.capture.user_call import UserCall
from drlpp.graph import OpGraph


@dataclasses.dataclass(frozen=True)
class CapturedModel:
    """A model as an operator graph, with the torch.fx graph that it was made from.

    `module.graph` holds, in order: ``placeholder`` (the tensors of one micro-batch), ``get_attr`` (one per parameter,
    buffer or constant that is read), ``call_function`` (ATen operators and ``operator.getitem``) and one ``output``:
    the scalar loss. Every ``call_function`` belongs to one op. Any partition of the ops that respects the edges can be
    run stage by stage with the same result as the whole, if

    - within a stage, fx nodes run in the order of `module.graph`;
    - nodes in `no_grad` run without gradient recording, nodes in `autocast` in their autocast region;
    - placeholders and ``get_attr`` are given to every stage that reads them;
    - the gradients of parameters that several stages read (`OpGraph` says which) are summed.

    Attributes:
        graph: the operator graph; `Op.members` are names of fx nodes, tensors are named by the fx node they come from.
        module: the computation, in the modes in which the user left his modules, with the parameters (hollow ones, if
            captured without values).
        op_of_node: fx node name -> op name, for every ``call_function``.
        call: how the user's module was called.
        inputs: names of the placeholders, in order.
        example_inputs: placeholder -> tensor of the example micro-batch (first dimension = samples).
        loss: name of the fx node that gives the loss.
        parameters, buffers: dotted names, as in the user's module, of what the graph reads; constants that the
            module makes on the way are among the buffers.
        aliases: further name of a tied parameter or shared buffer -> the name in `parameters` or `buffers`.
        no_grad: names of fx nodes that run without gradient recording.
        without_gradient: names of fx nodes whose value has no gradient although an argument has one (``zeros_like``).
        no_autocast: names of fx nodes in a region that switches autocast off: they must not run under one from outside.
        autocast: fx node name -> arguments of the `torch.autocast` region it runs in (device type, dtype, enabled,
            cache).
        has_values: parameters have values (captured on ``cpu``), so that the model can be run.
        unchecked: why the computation was not compared with the user's module (`drlpp.capture.check`); empty if it was.
    """

    graph: OpGraph
    module: fx.GraphModule
    op_of_node: Mapping[str, str]
    call: ModuleCall
    inputs: tuple[str, ...]
    example_inputs: Mapping[str, torch.Tensor]
    loss: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    aliases: Mapping[str, str]
    no_grad: frozenset[str]
    without_gradient: frozenset[str]
    no_autocast: frozenset[str]
    autocast: Mapping[str, tuple[Any, ...]]
    has_values: bool
    unchecked: str = ""

    @property
    def constants(self) -> dict[str, torch.Tensor]:
        """What the graph reads besides parameters and buffers of the module and its loss: tensors in plain attributes
        and those that the capture made."""
        own = {*module_tensors(self.call.module), *loss_tensors(self.call.loss_fn)}
        return {n: self.module.get_buffer(n) for n in self.buffers if n not in own}

    @property
    def user_calls(self) -> tuple[UserCall, ...]:
        """The operators that run the user's own Python."""
        return tuple(n.target for n in self.module.graph.nodes if isinstance(n.target, UserCall))
