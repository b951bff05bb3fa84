"""Compares the captured graph with the user's own module: loss, every gradient, every buffer, in two passes.

The module runs as the user left it, in plain PyTorch, on the example inputs; the graph runs on copies of its parameters
and buffers, from the same seeds. What differs would be trained wrongly, so it is refused, with the module's name. The
second pass shows state that the graph does not hold: counters, assigned attributes, random numbers of Python.

While the graph runs, what the module trains is filled with NaN, if the graph calls code of the user: such code may
read parameters behind the graph's back, and the copies that a stage trains would not be seen.

Left out: state that shows in no number of the module and not in the first two passes.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from drlpp.capture.captured import CapturedModel
from drlpp.capture.export import module_path
from drlpp.capture.interpret import attribute, run_stages
from drlpp.capture.own_model import OwnModel, left_alone, put_back
from drlpp.capture.parameter_hooks import copy_hooks, has_hooks, refuse_late_hooks
from drlpp.capture.python_state import (
    RandomStates,
    StateKept,
    changed_numbers,
    numbers,
    set_number,
    tensors_in_attributes,
)
from drlpp.errors import CaptureError
from drlpp.units import format_bytes, format_flop

TOLERANCE = 1e-4
"""Relative error of a gradient, against its norm (at least a thousandth of the usual size of gradients)."""
COARSE_TOLERANCE = 2e-2
"""The same where the model computes in 16 bits."""
MAX_BYTES = 2 << 30
MAX_SHARE_OF_CAPTURE, LEAST_S = 1.0, 0.5
"""The passes take at most this part of the processor time of the capture, or this many seconds."""
FLOP_PER_S, SECONDS_PER_NODE = 1.5e10, 1e-4
"""What one core surely does, to estimate the time of a pass."""
COUNTS = (10, 1_000, 1_000_000)
"""Counters are tried this much further on."""
_STATE = "a graph has no such state: keep it in a buffer that is changed in place, and compute with it as a tensor"


def why_unchecked(captured: CapturedModel, seconds: float) -> str:
    """Why the check would take too much memory or time; empty if it may run.

    Args:
        captured: its graph says how much work a pass is.
        seconds: processor time that the capture took.
    """
    graph = captured.graph
    need = 5 * sum(graph.param_bytes.values()) + 2 * sum(graph.tensor_bytes.values())
    if need > MAX_BYTES:
        return f"it would take {format_bytes(need)} of memory"
    flop = sum(op.forward.flop + op.input_grad.flop + op.weight_grad.flop for op in graph.ops)
    if 2 * (flop / FLOP_PER_S + SECONDS_PER_NODE * len(captured.module.graph.nodes)) > _allowed_s(seconds):
        return f"a pass is {format_flop(flop)}, which takes longer than the capture"
    return ""


def _allowed_s(seconds: float) -> float:
    return max(LEAST_S, MAX_SHARE_OF_CAPTURE * seconds)


def check_module(captured: CapturedModel, own: OwnModel, seconds: float) -> str:
    """Compares the graph with the user's module, which is left as it was.

    Args:
        captured: the graph; its own values are not used.
        own: the user's module, with values.
        seconds: processor time that the capture took.

    Returns:
        What was left out for lack of time; empty if nothing was.

    Raises:
        CaptureError: they differ, or the module fails in plain PyTorch.
    """
    for name, parameter in own.parameters().items():
        refuse_late_hooks(name, parameter)
    begin = time.process_time()
    with left_alone(own), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        comparison = _Comparison(captured, own)
        comparison.run(0)
        if 2 * (time.process_time() - begin) > _allowed_s(seconds):
            return "one pass was compared, a second would take longer than the capture"
        comparison.run(1)
        comparison.try_counters()
    return ""


@dataclasses.dataclass
class _Pass:
    """What a pass left: the loss, gradients by parameter name, the values of buffers and frozen parameters."""

    loss: torch.Tensor
    gradients: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]


class _Comparison:
    def __init__(self, captured: CapturedModel, own: OwnModel) -> None:
        self._own = own
        self._module = _copied_module(captured, own)
        self._captured = dataclasses.replace(captured, module=self._module, has_values=True)
        self._names = [str(n.target) for n in captured.module.graph.nodes if n.op == "get_attr"]
        self._poison = bool(captured.user_calls) or any(has_hooks(p) for p in own.parameters().values())
        self._at_start = StateKept(own.module)
        self._values = {n: (t, t.detach().clone()) for n, t in own.tensors().items()}
        self._made: dict[str, torch.Tensor] = {}
        self._first: _Pass | None = None
        self._numbers = [numbers(own.module)]
        self._tensors = [tensors_in_attributes(own.module)]
        low = (torch.bfloat16, torch.float16)
        coarse = captured.autocast or any(t.dtype in low for t in own.tensors().values())
        self._tolerance = COARSE_TOLERANCE if coarse else TOLERANCE

    def run(self, number: int) -> None:
        """Runs both from the seed of a pass and compares."""
        theirs = self._own_pass(number)
        self._numbers.append(numbers(self._own.module))
        self._tensors.append(tensors_in_attributes(self._own.module))
        with self._hidden(theirs):
            ours = self._graph_pass(number)
        self._compare(theirs, ours, number)
        if number == 0:
            self._first = ours

    def try_counters(self) -> None:
        """Runs the module with its counters further on: a model that waits for the 100th call is no graph."""
        start, first, second = self._numbers
        counting = [p for p in changed_numbers(first, second) if p in changed_numbers(start, first)]
        drawn = [p for p in counting if isinstance(second[p][1], str)]
        if drawn:
            raise CaptureError(f"{_described(drawn[0])} changes in every forward pass: {_STATE}")
        counts = [p for p in counting if isinstance(second[p][1], (int, float))]
        for further in COUNTS if counts else ():
            self._at_start.restore()
            put_back(self._values)
            for path in counts:
                set_number(start[path][0], start[path][1] + further)  # type: ignore[operator]
            self._compare(self._own_pass(0), self._first, 0, f"{_described(counts[0])} counts the passes, and ")

    def _own_pass(self, number: int) -> _Pass:
        parameters = self._own.parameters()
        flags = {n: p.requires_grad for n, p in parameters.items()}
        for p in parameters.values():
            p.grad = None
        torch.manual_seed(number)
        generators = RandomStates()
        try:
            loss = self._own.loss(self._captured.example_inputs)
            drawn, recording = generators.drawn_since(), torch.is_grad_enabled()
            torch.set_grad_enabled(True)
            if loss.requires_grad:
                loss.backward()
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(
                f"module {self._kind} fails in plain PyTorch, in pass {number + 1} on the example inputs: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}: mend it first"
            ) from error
        if drawn:
            raise CaptureError(
                f"module {self._kind} draws from {drawn} in forward: draw with torch, whose numbers a graph draws "
                "anew in every pass"
            )
        if not recording:
            raise CaptureError(
                f"forward of module {self._kind} leaves the recording of gradients off: use `with torch.no_grad():`"
            )
        for name, tensor in self._own.tensors().items():
            if name in self._values and tensor.shape != (before := self._values[name][1].shape):
                raise CaptureError(
                    f"{name!r} has another shape after a pass, {list(tensor.shape)} instead of {list(before)}: call "
                    "the module once on a batch before the capture"
                )
        for name, p in self._own.parameters().items():
            if p.requires_grad != flags.get(name, p.requires_grad):
                raise CaptureError(
                    f"forward switches requires_grad of parameter {name!r} and leaves it so: switch it before the "
                    "capture, and capture again when it changes"
                )
            if p.requires_grad and name in self._values and not torch.equal(p, self._values[name][1]):
                raise CaptureError(
                    f"forward changes parameter {name!r}, which is trained, in place: several micro-batches use it at "
                    "a time; change it after the optimizer's step"
                )
        gradients = {n: _dense(p.grad) for n, p in self._own.parameters().items() if p.grad is not None}
        return _Pass(loss.detach(), gradients, _not_trained(self._own.tensors()))

    @property
    def _kind(self) -> str:
        return type(self._own.module.model).__name__

    @contextmanager
    def _hidden(self, theirs: _Pass) -> Iterator[None]:
        """Within it, what the module trains is NaN (see the module's docstring)."""
        if not self._poison:
            yield
            return
        changed = [n for n, b in theirs.buffers.items() if n in self._values and not _same(b, self._values[n][1])]
        own = self._own.tensors()
        names = [n for n in (*theirs.gradients, *changed) if n in own and own[n].is_floating_point()]
        kept = {n: (own[n], own[n].detach().clone()) for n in names}
        with torch.no_grad():
            for tensor, _ in kept.values():
                tensor.fill_(float("nan"))
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in kept.values():
                    tensor.copy_(value)

    def _graph_pass(self, number: int) -> _Pass:
        for p in self._module.parameters():
            p.grad = None
        torch.manual_seed(number)
        try:
            loss = run_stages(self._captured, [0] * self._captured.graph.num_ops)
        except Exception as error:
            calls = "".join(f" (it calls {c.where})" for c in self._captured.user_calls[:1])
            raise CaptureError(
                f"the graph of module {self._kind} cannot be trained{calls}: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}: change the construct, or give code that runs by itself its "
                "tensors as arguments"
            ) from error
        gradients = {n: _dense(p.grad) for n, p in self._module.named_parameters() if p.grad is not None}
        return _Pass(loss, gradients, _not_trained(dict(self._module.state_dict(keep_vars=True))))

    def _compare(self, theirs: _Pass, ours: _Pass | None, number: int, why: str = "") -> None:
        if ours is None:
            return
        changed = changed_numbers(self._numbers[0], self._numbers[-1])
        if not why and changed:
            why = f"{_described(changed[0])} changes in the forward pass, and "
        if not why and number:
            left = [p for p, t in self._tensors[1].items() if self._tensors[0].get(p) is not t]
            why = f"{_described(left[0])} may keep a tensor for the next pass, and " if left else ""
        where = f"in pass {number + 1} " if number else ""
        usual = _UsualSize([theirs.loss])
        if _error(ours.loss, theirs.loss, usual) > self._tolerance:
            at = self._differing_module(number) if number == 0 and not why else ""
            self._refuse(
                f"{why}the loss {where}is {float(theirs.loss):.6g}, in the graph {float(ours.loss):.6g}{at}", ours.loss
            )
        usual = _UsualSize(list(theirs.gradients.values()))
        order = {n: i for i, n in enumerate(self._names)}
        for name in sorted({*theirs.gradients, *ours.gradients}, key=lambda n: -order.get(n, -1)):
            present = theirs.gradients.get(name, ours.gradients.get(name))
            none = torch.zeros_like(present)  # type: ignore[arg-type]
            wanted, found = theirs.gradients.get(name, none), ours.gradients.get(name, none)
            if _error(found, wanted, usual) > self._tolerance:
                self._refuse(
                    f"{why}the gradient of parameter {name!r} {where}has norm {_norm(wanted):.4g}, in the graph "
                    f"{_norm(found):.4g}",
                    found,
                )
        for name, wanted in theirs.buffers.items():
            unread = self._values[name][1] if name in self._values else self._made.setdefault(name, wanted)
            there = ours.buffers.get(name, unread)
            if name in self._made and not _same(there, wanted):
                raise CaptureError(
                    f"forward makes buffer {name!r} and changes it in the next pass: give it its first value where "
                    "the module is made"
                )
            if there is None or _error(there, wanted, _UsualSize([wanted])) > self._tolerance:
                self._refuse(
                    f"{why}the value of {name!r} {where}is not what it is in the graph (a checkpointed part changes "
                    "its buffers twice, when it runs and when it runs again)",
                    wanted,
                )

    def _refuse(self, difference: str, found: torch.Tensor) -> None:
        calls = [c.where for c in self._captured.user_calls] or ["a gradient hook on a parameter"]
        if self._poison and not found.isfinite().all():
            cause = f"{calls[0]} reads tensors of the module besides its arguments: hand them to it as arguments"
        else:
            cause = (
                "likely causes are state kept in attributes, hooks, or code that depends on values: write that part "
                "with plain tensor operators and buffers"
            )
        raise CaptureError(f"module {self._kind} would not be trained as it is: {difference}; {cause}")

    def _differing_module(self, number: int) -> str:
        """The first module whose result differs, as a phrase; empty if none is found."""
        self._at_start.restore()
        put_back(self._values)
        theirs: list[tuple[str, torch.Tensor]] = []
        handles = []
        for name, module in self._own.module.model.named_modules():

            def keep(_: Any, __: Any, output: Any, name: str = name) -> None:
                if isinstance(output, torch.Tensor):
                    theirs.append((name, output.detach().clone()))

            handles.append(module.register_forward_hook(keep))
        torch.manual_seed(number)
        try:
            self._own.loss(self._captured.example_inputs)
        finally:
            for handle in handles:
                handle.remove()
        last = {n: node.name for node in self._captured.module.graph.nodes if (n := _path(node)) is not None}
        ours: dict[str, torch.Tensor] = {}
        torch.manual_seed(number)
        run_stages(self._captured, [0] * self._captured.graph.num_ops, watch=lambda n, v: ours.__setitem__(n.name, v))
        for name, value in theirs:
            found = ours.get(last.get(name, ""))
            if not isinstance(found, torch.Tensor) or found.shape != value.shape:
                continue
            if _error(found.detach(), value, _UsualSize([value])) > self._tolerance:
                return f"; the first module that differs is {name!r}" if name else ""
        return ""


def _not_trained(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in tensors.items() if not t.requires_grad}


def _path(node: fx.Node) -> str | None:
    return module_path(node) if node.op == "call_function" else None


def _described(path: str) -> str:
    return f"attribute {path.removeprefix('model.')!r}"


def _copied_module(captured: CapturedModel, own: OwnModel) -> fx.GraphModule:
    """The graph on copies of the module's tensors, and of the constants that the capture made."""
    held = own.tensors()
    root = nn.Module()
    for node in captured.module.graph.nodes:
        if node.op != "get_attr":
            continue
        name = str(node.target)
        source = held.get(name)
        source = attribute(captured.module, name) if source is None else source
        copied: torch.Tensor = source.detach().clone()
        if isinstance(source, nn.Parameter):
            copied = nn.Parameter(copied, requires_grad=source.requires_grad)
            copy_hooks(source, copied)
        set_tensor(root, name, copied)
    return fx.GraphModule(root, captured.module.graph, class_name="CheckedModule")


def set_tensor(root: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Puts a parameter or buffer at a dotted path; makes the modules on the way."""
    *parents, last = path.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_dense() if tensor.layout is not torch.strided else tensor).detach()


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.complex128 if tensor.is_complex() else torch.float64))


class _UsualSize:
    """Root mean square over all elements of some tensors, which is computed where it is needed."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._tensors = tensors

    @functools.cached_property
    def value(self) -> float:
        count = sum(t.numel() for t in self._tensors)
        return (sum(_norm(t) ** 2 for t in self._tensors) / count) ** 0.5 if count else 0.0


def _error(found: torch.Tensor, wanted: torch.Tensor, usual: _UsualSize) -> float:
    """Relative to the norm of `wanted`, at least a thousandth of the usual size per element; equal NaN are no error."""
    if found.shape != wanted.shape:
        return float("inf")
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return 0.0 if torch.equal(found, wanted) else float("inf")
    if torch.equal(found, wanted):
        return 0.0
    if not wanted.isfinite().all():
        return 0.0 if torch.equal(found.isfinite(), wanted.isfinite()) else float("inf")
    floor = max(1e-3 * usual.value * wanted.numel() ** 0.5, 1e-30)
    error = _norm(found - wanted) / max(_norm(wanted), floor)
    return error if error == error else float("inf")
