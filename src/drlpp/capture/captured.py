"""The captured model: its operator graph and the computation that the ops stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import fx

from drlpp.capture.batch_axis import with_batch_axis, with_samples
from drlpp.capture.export import ExportedModel, export_module
from drlpp.capture.graph_builder import build_graph
from drlpp.capture.loss import LossFunction
from drlpp.capture.module_call import ModuleCall
from drlpp.capture.sources.fake_parameters import is_hollow
from drlpp.capture.sources.load import load_model
from drlpp.capture.sources.model_source import ModelSource, as_call
from drlpp.capture.work import Kernels
from drlpp.graph import OpGraph

Device = Literal["meta", "cpu"]


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
        module: the computation, in training mode, with the parameters (hollow ones, if captured without values).
        op_of_node: fx node name -> op name, for every ``call_function``.
        call: how the user's module was called.
        inputs: names of the placeholders, in order.
        example_inputs: placeholder -> tensor of the example micro-batch (first dimension = samples).
        loss: name of the fx node that gives the loss.
        parameters, buffers: dotted names, as in the user's module, of what the graph reads; constants that the
            module makes on the way are among the buffers.
        aliases: further name of a tied parameter or shared buffer -> the name in `parameters` or `buffers`.
        no_grad: names of fx nodes that run without gradient recording.
        no_autocast: names of fx nodes in a region that switches autocast off: they must not run under one from outside.
        autocast: fx node name -> arguments of the `torch.autocast` region it runs in (device type, dtype, enabled,
            cache).
        has_values: parameters have values (captured on ``cpu``), so that the model can be run.
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
    no_autocast: frozenset[str]
    autocast: Mapping[str, tuple[Any, ...]]
    has_values: bool


def capture(
    source: ModelSource,
    *,
    device: Device = "meta",
    seed: int = 0,
    kernels: Kernels = "gpu",
    samples: int | None = None,
) -> CapturedModel:
    """Captures a model from where it comes.

    Args:
        source: see `drlpp.capture.load_model`.
        device: ``meta``: parameters take no memory (for planning); ``cpu``: they have values (for profile and run).
            Both give the same operator graph.
        seed: of the initial parameters and the example inputs.
        kernels: ``gpu`` or ``cpu``: where the model is to be trained. CPUs keep more for the backward pass of dropout
            and attention.
        samples: of the micro-batch; None for those of the source's example.

    Raises:
        CaptureError: the model cannot be built or captured.
    """
    example = source.build(device=device, seed=seed)
    if samples is not None:
        example = with_samples(example, samples)
    exported = export_module(example.module.train(), example.args, example.kwargs, example.loss_fn)
    return _captured(exported, source.name, source.spec, kernels, has_values=device == "cpu")


def capture_graph(spec: str, kernels: Kernels = "gpu", *, batch_axis: bool = False) -> OpGraph:
    """The operator graph of a model by its specification (``timm:NAME``, ``transformers:CLASS``, ``FILE.py:callable``).

    No weights are allocated.

    Args:
        kernels: see `capture`.
        batch_axis: find out which part of every amount grows with the samples (`drlpp.capture.batch_axis`), so that the
            graph can be had at other micro-batch sizes. It takes twice as long.

    Raises:
        CaptureError: it names the construct that cannot be captured.
    """
    source = load_model(spec)
    graph = capture(source, kernels=kernels).graph
    if not batch_axis:
        return graph
    return with_batch_axis(graph, capture(source, kernels=kernels, samples=2 * graph.samples_per_microbatch).graph)


def capture_module(
    module: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any],
    loss_fn: LossFunction | None = None,
    source: str = "",
    kernels: Kernels = "gpu",
) -> CapturedModel:
    """Captures a module at hand.

    Args:
        module: put into training mode.
        example_inputs: one micro-batch: a tensor, a tuple or list of arguments, or a dict of keyword arguments.
        loss_fn: output -> scalar loss; without it the module returns the loss, or an object with `.loss`.
        source: for people: where the module comes from.
        kernels: see `capture`.

    Raises:
        CaptureError: the module cannot be captured.
    """
    args, kwargs = as_call(example_inputs)
    exported = export_module(module.train(), args, kwargs, loss_fn)
    has_values = not any(is_hollow(p) for p in module.parameters())
    return _captured(exported, type(module).__name__, source, kernels, has_values=has_values)


def _captured(exported: ExportedModel, name: str, source: str, kernels: Kernels, *, has_values: bool) -> CapturedModel:
    graph, op_of_node = build_graph(exported, name=name, source=source, kernels=kernels)
    module = exported.module
    return CapturedModel(
        graph=graph,
        module=module,
        op_of_node=op_of_node,
        call=exported.call,
        inputs=tuple(n.name for n in module.graph.nodes if n.op == "placeholder"),
        example_inputs=exported.example_inputs,
        loss=exported.loss,
        parameters=tuple(n for n, _ in module.named_parameters()),
        buffers=tuple(n for n, _ in module.named_buffers()),
        aliases=exported.aliases,
        no_grad=exported.no_grad,
        no_autocast=exported.no_autocast,
        autocast=exported.autocast,
        has_values=has_values,
    )
