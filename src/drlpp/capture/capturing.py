"""Captures a model: exports it, makes its operator graph, and checks the result against the user's own module."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from drlpp.capture.batch_axis import with_batch_axis, with_samples
from drlpp.capture.captured import CapturedModel
from drlpp.capture.check import check_module, why_unchecked
from drlpp.capture.collector import collector_paused
from drlpp.capture.export import ExportedModel, export_module
from drlpp.capture.graph_builder import BuiltGraph, build_graph
from drlpp.capture.loss import LossFunction, ModelWithLoss
from drlpp.capture.model_state import check_constants, check_kinds, check_memory
from drlpp.capture.own_model import OwnModel
from drlpp.capture.python_state import StateKept
from drlpp.capture.sources.fake_parameters import is_hollow
from drlpp.capture.sources.load import load_model
from drlpp.capture.sources.model_source import Example, ModelSource, as_call
from drlpp.capture.whole_modules import ADVICE, MODEL, Whole, keeping_whole
from drlpp.capture.work import Kernels
from drlpp.graph import OpGraph

Device = Literal["meta", "cpu"]
LIBRARIES = ("timm:", "transformers:")
"""Sources whose models are not checked: their code is no user's."""
log = logging.getLogger(__name__)


@collector_paused()
def capture(
    source: ModelSource,
    *,
    device: Device = "meta",
    seed: int = 0,
    kernels: Kernels = "gpu",
    samples: int | None = None,
    check: bool = True,
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
        check: compare with the user's module (`drlpp.capture.check`); models of libraries are not compared.

    Raises:
        CaptureError: the model cannot be built or captured, or would not be trained as it is (`drlpp.capture.check`).
    """
    begin = time.process_time()
    example = source.build(device=device, seed=seed)
    if samples is not None:
        example = with_samples(example, samples)
    captured = _captured(example, source.name, source.spec, kernels, has_values=device == "cpu")
    if not check or source.spec.startswith(LIBRARIES):
        return captured
    make = None if device == "cpu" else lambda: source.build(seed=seed)
    return _checked(captured, make, time.process_time() - begin)


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
    doubled = capture(source, kernels=kernels, samples=2 * graph.samples_per_microbatch, check=False)
    return with_batch_axis(graph, doubled.graph)


@collector_paused()
def capture_module(
    module: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any],
    loss_fn: LossFunction | None = None,
    source: str = "",
    kernels: Kernels = "gpu",
) -> CapturedModel:
    """Captures a module at hand.

    Args:
        module: is captured, and left, in the modes in which it is (training, eval, mixed).
        example_inputs: one micro-batch: a tensor, a tuple or list of arguments, or a dict of keyword arguments.
        loss_fn: output -> scalar loss; without it the module returns the loss or carries it
            (`drlpp.capture.loss.loss_in`).
        source: for people: where the module comes from.
        kernels: see `capture`.

    Raises:
        CaptureError: the module cannot be captured, or would not be trained as it is (`drlpp.capture.check`).
    """
    args, kwargs = as_call(example_inputs)
    has_values = not any(is_hollow(p) for p in module.parameters())
    example = Example(module, args, kwargs, loss_fn)
    begin = time.process_time()
    captured = _captured(example, type(module).__name__, source, kernels, has_values=has_values)
    return _checked(captured, None, time.process_time() - begin)


def _captured(example: Example, name: str, source: str, kernels: Kernels, *, has_values: bool) -> CapturedModel:
    if not example.module.training:
        log.warning(
            "%s is in eval mode, and is trained so: dropout is off, batch norms keep their statistics; call "
            "its train() before the capture if that is not meant",
            name,
        )
    for part in (example.module, example.loss_fn):
        if isinstance(part, torch.nn.Module):
            check_kinds(part)
    check_memory(example.module, example.loss_fn)
    wrapped = ModelWithLoss(example.module, example.loss_fn)
    state = StateKept(wrapped)

    def attempt(whole: Whole) -> tuple[ExportedModel, BuiltGraph]:
        exported = export_module(example.module, example.args, example.kwargs, example.loss_fn, wrapped, whole)
        try:
            return exported, build_graph(exported, name=name, source=source, kernels=kernels)
        finally:
            state.restore()  # to count the work of the user's code, it is run

    exported, (graph, op_of_node, without_gradient) = keeping_whole(wrapped, attempt)
    _tell_whole(name, exported.call.whole)
    for place in exported.checks:
        log.warning("%s: the check at %s is not made in training", name, place)
    module = exported.module
    captured = CapturedModel(
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
        without_gradient=without_gradient,
        no_autocast=exported.no_autocast,
        autocast=exported.autocast,
        has_values=has_values,
    )
    check_constants(captured.constants, example.module, example.loss_fn)
    return captured


def _tell_whole(name: str, whole: Whole) -> None:
    """One line for each reason, which modules of one class share."""
    for why in dict.fromkeys(whole.values()):
        first, *others = (path for path, reason in whole.items() if reason == why)
        shown = "the model" if first == MODEL else repr(first.removeprefix(f"{MODEL}."))
        more = f" (and {len(others)} more of its class)" if others else ""
        advice = f"; {ADVICE}, and the rest is cut" if first == MODEL else ""
        log.warning("%s: %s%s is kept whole, as one op that no plan cuts: %s%s", name, shown, more, why, advice)


def _checked(captured: CapturedModel, make: Callable[[], Example] | None, seconds: float) -> CapturedModel:
    """Compares a captured model with the user's module, and says so if it cannot.

    Args:
        make: makes the module with values; without it, the captured one has them.
        seconds: processor time that the capture took.
    """
    unchecked = why_unchecked(captured, seconds)
    if not unchecked and make is None and not captured.has_values:
        unchecked = "it has no values"
    if not unchecked:
        call = captured.call
        if make is not None:
            example = make()
            call = dataclasses.replace(call, module=example.module, loss_fn=example.loss_fn)
        constants = captured.constants if make is None else {}
        unchecked = check_module(captured, OwnModel(call, constants), seconds)
    if unchecked:
        log.warning("%s is not checked against the module in plain PyTorch: %s", captured.graph.name, unchecked)
    return dataclasses.replace(captured, unchecked=unchecked)
