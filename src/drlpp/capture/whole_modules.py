"""Modules that are one operator, which runs the user's code with the tensors of the module as arguments.

Modules with backward hooks are, and modules with constructs that cannot be traced and can be run: control flow and
shapes that depend on values, transforms of torch.func, derivatives, generators, code outside of PyTorch. A loss
function may be, too. Buffers that are changed, in place or by assignment, are further results, which are copied back.

Left out, and refused: modules that change their inputs in place, or that take or return objects with tensors in them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import nn

from drlpp.capture.failures import TraceError
from drlpp.capture.loss import LOSS
from drlpp.capture.recording import Calls, Form, replaced
from drlpp.capture.user_call import Tensors, identifier, place_of, source_digest, trial
from drlpp.errors import CaptureError, InputError
from drlpp.torch_private import FakeTensor, call_module, pytree

T = TypeVar("T")
Whole = Mapping[str, str]
"""Path of a module in the model with its loss -> why it is kept whole."""
NOTHING: Whole = MappingProxyType({})
MODEL = "model"
"""Path of the model in the model with its loss."""
MAX_BYTES = 2 << 30
"""Parameters and buffers of a model that is one operator."""
ADVICE = "or put this part into an nn.Module of its own, which is kept whole then"
_HOOKS = ("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks")


def keeping_whole(model: nn.Module, attempt: Callable[[Whole], T]) -> T:
    """What `attempt` returns, with those modules whole that cannot be traced: as small ones as do.

    Modules of the user's that have the class of such a one are whole too. The whole model is the last resort, if it is
    not larger than `MAX_BYTES`: its sizes are found by running it.

    Args:
        model: the model with its loss.
        attempt: captures it with some modules whole.

    Raises:
        TraceError: nor does it help that the model is whole; it says what could not be traced at first.
    """
    whole: dict[str, str] = {}
    first: TraceError | None = None
    while True:
        try:
            return attempt(whole)
        except TraceError as error:
            first = first or error
            path = _next(error.module, whole)
            if not path or (path == MODEL and _bytes(model) > MAX_BYTES):
                raise TraceError(f"{first}; {ADVICE}", "") from error
            for name in _alike(model, path):
                whole = {p: why for p, why in whole.items() if not p.startswith(f"{name}.")}
                whole[name] = str(error)


def _next(path: str, whole: Whole) -> str:
    """The smallest module at or above a path that is not whole yet; empty if all are."""
    path = path or MODEL
    while any(path == p or path.startswith(f"{p}.") for p in whole):
        path = path.rpartition(".")[0]
    return path


def _bytes(model: nn.Module) -> int:
    return sum(t.nbytes for t in itertools.chain(model.parameters(), model.buffers()))


def _alike(model: nn.Module, path: str) -> list[str]:
    """Paths of the modules of the class of that at `path`, outermost only."""
    found = dict(model.named_modules())
    kind = type(found.get(path))
    alike = [n for n, m in found.items() if type(m) is kind and n] if not kind.__module__.startswith("torch.") else []
    return [n for n in alike if not any(n.startswith(f"{o}.") for o in alike)] or [path]


@contextmanager
def whole_modules(calls: Calls, model: nn.Module, whole: Whole) -> Iterator[None]:
    """Within it, these modules, those with backward hooks, and the loss function if it is one of them are one operator.

    Args:
        model: the model with its loss.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name in whole or module._backward_hooks or module._backward_pre_hooks:
                stack.enter_context(_whole_module(calls, name, module, name in whole))
        function = vars(model).get(LOSS)
        if LOSS in whole and callable(function):
            stack.enter_context(replaced(model, LOSS, whole_function(calls, function, "the loss function", LOSS)))
        yield


@contextmanager
def _whole_module(calls: Calls, path: str, module: nn.Module, because_it_must: bool) -> Iterator[None]:
    why = "" if because_it_must else " with backward hooks"
    hooks = {name: getattr(module, name) for name in _HOOKS}
    forward = module.forward
    values = {n: t.detach().clone() for n, t in module.named_buffers() if not isinstance(t, FakeTensor)}

    def run(
        modes: list[tuple[nn.Module, bool]], args: tuple[Any, ...], kwargs: dict[str, Any], own: dict[str, torch.Tensor]
    ) -> Any:
        buffers: dict[str, torch.Tensor] = {}

        def noting(*given: Any, **named: Any) -> Any:
            try:
                return forward(*given, **named)
            finally:
                buffers.update(module.named_buffers())

        with ExitStack() as stack:
            for name, table in hooks.items():
                stack.enter_context(replaced(module, name, table))
            stack.enter_context(replaced(module, "forward", noting))
            for part, training in modes:  # the user may have changed them since
                stack.enter_context(replaced(part, "training", training))
            result = torch.func.functional_call(module, own, args, kwargs)
        own.update({name: tensor for name, tensor in buffers.items() if name in own})
        return result

    def traced(*args: Any, **kwargs: Any) -> Any:
        return _Code(
            run=functools.partial(run, [(part, part.training) for part in module.modules()]),
            name=identifier(type(module).__name__),
            path=path,
            where=f"module {path.removeprefix('model.')!r} ({type(module).__name__}){why}",
            identity=f"module:{type(module).__qualname__}:{source_digest(type(module))}({module!r})",
            owned=dict(itertools.chain(module.named_parameters(), module.named_buffers())),
            values=values,
        ).recorded(calls, args, kwargs)

    with ExitStack() as stack:
        for name, table in hooks.items():
            stack.enter_context(replaced(module, name, type(table)()))
        stack.enter_context(replaced(module, "forward", traced))
        yield


def whole_function(calls: Calls, function: Callable[..., Any], name: str, path: str = "") -> Callable[..., Any]:
    """A function that is one operator where it is traced.

    Args:
        name: for people.
        path: of the module in the model with its loss; empty where it is not known.
    """

    def traced(*args: Any, **kwargs: Any) -> Any:
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if not calls.traces(tensors):
            return function(*args, **kwargs)
        return _Code(
            run=lambda given, named, own: function(*given, **named),
            name=identifier(getattr(function, "__name__", type(function).__name__)),
            path=path,
            where=f"{name} ({place_of(function)})",
            identity=f"function:{name}:{source_digest(function)}",
            owned={},
            values={},
        ).recorded(calls, args, kwargs)

    return traced


@dataclasses.dataclass
class _Code:
    """Code that becomes one operator.

    Attributes:
        run: (args, kwargs, own tensors) -> result; it puts the buffers that it assigned among its own tensors.
        name, where, identity: see `drlpp.capture.user_call.UserCall`.
        path: of the module in the model with its loss.
        owned: its parameters and buffers.
        values: those of buffers; what the code does may depend on them.
    """

    run: Callable[[tuple[Any, ...], dict[str, Any], dict[str, torch.Tensor]], Any]
    name: str
    path: str
    where: str
    identity: str
    owned: Mapping[str, torch.Tensor]
    values: Mapping[str, torch.Tensor]

    def recorded(self, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records a call, and returns its result."""
        body = _Body(self, args, kwargs)
        tensors = [*body.given, *self.owned.values()]
        body.state = self._state(body, tensors)
        results = calls.record(tensors, body, name=self.name, where=self.where, identity=self.identity)
        body.note(tensors, results)
        count = len(results) - len(body.state)
        for name, value in zip(body.state, results[count:], strict=True):
            if value.shape != (before := self.owned[name].shape):
                raise CaptureError(
                    f"{self.where} gives its {name!r} another shape, {list(value.shape)} instead of {list(before)}: "
                    "call the module once on a batch before the capture"
                )
            with torch.no_grad():
                self.owned[name].copy_(value)
        return body.form.filled(results[:count])

    def _state(self, body: _Body, tensors: Tensors) -> list[str]:
        """Names of the buffers that it changes."""
        inputs = len(body.given)
        known = {i: self.values[n] for i, n in enumerate(self.owned, inputs) if n in self.values}
        tried = trial(body, tensors, known)
        if tried.foreign is not None:
            raise CaptureError(
                f"{self.where} uses a trained parameter of shape {tried.foreign}, which it does not own: make it part "
                "of that module, hand it over as an argument, or freeze it (requires_grad_(False))"
            )
        names = [*(f"argument {i}" for i in range(inputs)), *self.owned]
        if odd := [names[i] for i in tried.changed if i < inputs or tensors[i].requires_grad]:
            raise TraceError(f"{self.where} changes {odd[0]} in place: have it return a new tensor instead", self.path)
        return sorted({names[i] for i in tried.changed} | body.assigned)


class _Body:
    """What one recorded call runs, on any tensors in the place of those that it was recorded with.

    Attributes:
        given: the tensors among the arguments.
        form: of the result.
        state: names of its own tensors whose new values are further results.
        assigned: of those that the last run assigned anew.
    """

    def __init__(self, code: _Code, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._code = code
        self._leaves, self._spec = pytree.tree_flatten((args, kwargs))
        self._places = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor)]
        self.given = [self._leaves[i] for i in self._places]
        self.form = Form()
        self.state: list[str] = []
        self.assigned: set[str] = set()
        self._noted: list[Any] = []
        self._had_gradient: list[bool] = []
        self._refuse_hidden(self._leaves, "takes", FakeTensor)

    def __call__(self, tensors: Tensors) -> list[torch.Tensor]:
        if torch.is_grad_enabled() or not any(self._had_gradient):
            return self._run(tensors)
        with torch.enable_grad():  # a stage that computes again later: the code may ask for gradients
            given = [t.detach().requires_grad_(g) for t, g in zip(tensors, self._had_gradient, strict=True)]
            return [r.detach() for r in self._run(given)]

    def _run(self, tensors: Tensors) -> list[torch.Tensor]:
        leaves = list(self._leaves)
        for i, t in zip(self._places, tensors, strict=False):
            leaves[i] = t
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        before = dict(zip(self._code.owned, tensors[len(self._places) :], strict=True))
        before |= {name: before[name].detach().clone() for name in self.state}
        own = dict(before)
        versions = [t._version for t in before.values()]
        with replaced(nn.Module, "__call__", call_module):  # a trace has its own, which must not see this
            results = self.form.tensors_of(self._code.run(args, kwargs, own))
        self._refuse_hidden(self.form.others, "returns", torch.Tensor)
        self.assigned = {name for name, tensor in own.items() if tensor is not before[name]}
        results += [own[name].detach() for name in self.state]
        if self._noted and not isinstance(results[0], FakeTensor):
            self._check(results)
            changed = [n for (n, t), v in zip(before.items(), versions, strict=True) if t._version != v]
            if odd := sorted(({*changed} | self.assigned) - {*self.state}):
                raise InputError(
                    f"{self._code.where} changes its {odd[0]!r} now and did not at the capture: change it in every "
                    "pass, or not in forward"
                )
        return results

    def note(self, tensors: Tensors, results: Sequence[torch.Tensor]) -> None:
        """Notes what has to be the same in each run: the shapes of results, and numbers; and what had a gradient."""
        self._noted = self._constant(results)
        if torch.is_grad_enabled():
            self._had_gradient = [t.requires_grad for t in tensors]

    def _constant(self, results: Sequence[torch.Tensor]) -> list[Any]:
        plain = [x if isinstance(x, (bool, int, float, str)) else type(x) for x in self.form.others]
        return [*(list(r.shape) for r in results), *plain]

    def _check(self, results: Sequence[torch.Tensor]) -> None:
        for now, before in zip(self._constant(results), self._noted, strict=True):
            if now != before:
                raise InputError(
                    f"{self._code.where} returns {now!r} where it returned {before!r} at the capture: the shapes of "
                    "tensors and the numbers that it returns must not depend on values (pad to one length)"
                )

    def _refuse_hidden(self, leaves: Sequence[Any], does: str, kind: type) -> None:
        for leaf in leaves:
            inside = [*leaf] if isinstance(leaf, tuple) else [*getattr(leaf, "__dict__", {}).values()]
            if not isinstance(leaf, torch.Tensor) and any(isinstance(x, kind) for x in inside):
                raise TraceError(
                    f"{self._code.where} {does} a {type(leaf).__name__} with tensors in it: hand them over as "
                    "tensors, tuples, lists and dicts",
                    self._code.path,
                )
