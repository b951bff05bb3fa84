"""What torch.export leaves out of a module's gradients, recorded while it traces: `keeping_gradients`.

- A custom `autograd.Function` is one operator that calls the Function, with its own forward, context and backward.
- `Tensor.register_hook` is an identity operator whose result has the hook.
- A module with backward hooks is one operator that calls the whole module, with its parameters as arguments.
- A reentrant checkpoint is the function that it wraps, without gradients where no argument has one (as in PyTorch):
  what is computed again is the plan's choice. Batch norms in a checkpoint of either kind see each batch twice, in
  PyTorch too, so they move their statistics as far as two updates do.
- `ctc_loss`, whose kernels have sizes that depend on the targets, is one operator.
- A parameter that is read from a list, tuple or dict in an attribute is the parameter, not a constant.
- A buffer that is assigned anew is changed in place when ``forward`` ends.
- `inference_mode` is a region without gradients; `Tensor.data` is the tensor, detached; a parameter is read detached
  between ``requires_grad_(False)`` and ``requires_grad_(True)``.

`drlpp.capture.recording` says how they are recorded. Nothing is left behind when the context ends.

Left out, and refused: Functions that change an argument in place, and hooks on parameters that are set in ``forward``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

from drlpp.capture.failures import TraceError, users_line
from drlpp.capture.own_model import norms_of_one_process
from drlpp.capture.recording import Assigned, Calls, Form, replaced
from drlpp.capture.user_call import Tensors, identifier, place_of, source_digest
from drlpp.capture.value_checks import checks_that_find_nothing
from drlpp.capture.whole_modules import NOTHING, Whole, whole_function, whole_modules
from drlpp.errors import CaptureError
from drlpp.torch_private import TRANSFORMS, FakeTensor, TensorBase, get_proxy_mode, pytree, set_grad_enabled

_TABLES = frozenset(vars(nn.Module()))
_OF_TORCH = ("torch.nn.", "torch.utils.", "torch._", "torch.autograd.", "torch.distributed.")
"""Packages whose Functions are traced through: their backward pass is that of what they call."""
_AUTOGRAD = torch.autograd.graph
_SEEDS = (
    "torch.{name} at {{place}}, but each op draws numbers of its own: have a sub-module draw from a generator that "
    "it makes, torch.Generator().manual_seed(...)"
)
_HOOKS = "{name} at {{place}}, which the captured graph cannot have: use Tensor.register_hook"
_REFUSED = (
    *((torch, name, _SEEDS.format(name=name)) for name in ("manual_seed", "seed", "set_rng_state")),
    *((torch.random, name, _SEEDS.format(name=name)) for name in ("manual_seed", "fork_rng", "set_rng_state")),
    (_AUTOGRAD, "register_multi_grad_hook", _HOOKS.format(name="register_multi_grad_hook")),
    (_AUTOGRAD.saved_tensors_hooks, "__enter__", _HOOKS.format(name="saved_tensors_hooks")),
)
"""What forward may not use: owner, name, and what to say of it."""
_HARMLESS = (_AUTOGRAD.save_on_cpu,)
"""Kinds of `saved_tensors_hooks` that give back what was saved."""


@contextmanager
def keeping_gradients(model: nn.Module, assigned: Assigned = frozenset(), whole: Whole = NOTHING) -> Iterator[Calls]:
    """Around ``torch.export.export(model, ..., strict=False)``.

    Args:
        whole: modules that are one operator.
        assigned: buffers that an earlier trace found assigned. Copies of them are read, so that what autograd keeps is
            not changed in place.
    """
    calls = Calls()
    with ExitStack() as stack:
        stack.callback(calls.forget)
        stack.enter_context(_buffers_in_place(calls, model, assigned))
        stack.enter_context(_parameters_in_containers(model))
        stack.enter_context(_functions(calls))
        stack.enter_context(_checkpointed_norms(calls))
        stack.enter_context(_tensor_hooks(calls))
        stack.enter_context(_inference_mode_without_gradients())
        stack.enter_context(_data_is_detached(calls))
        stack.enter_context(_no_derivatives(calls))
        stack.enter_context(_no_transforms(calls))
        stack.enter_context(_no_context(calls))
        stack.enter_context(checks_that_find_nothing(calls))
        stack.enter_context(norms_of_one_process())
        stack.enter_context(_frozen_for_a_while(calls))
        stack.enter_context(whole_modules(calls, model, whole))
        stack.enter_context(replaced(torch, "ctc_loss", whole_function(calls, torch.ctc_loss, "ctc_loss")))
        yield calls


# ---- custom Functions and checkpoints


@contextmanager
def _functions(calls: Calls) -> Iterator[None]:
    """Replaces `apply` where it is looked up, and every `forward`: user code may have bound ``apply = Mine.apply``."""
    function = torch.autograd.Function
    own = vars(function)["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        original = functools.partial(own.__get__(None, cls), **kwargs)
        tensors = [t for t in pytree.tree_leaves(args) if isinstance(t, torch.Tensor)]
        if not calls.traces(tensors):
            return original(*args)
        if cls is CheckpointFunction:
            return _checkpointed(calls, *args)
        return original(*args) if _is_of_torch(cls) else _function_call(calls, cls, original, args)

    def forward_of(cls: Any) -> Callable[..., Any]:
        forward, apply_own = cls.forward, own.__get__(None, cls)
        takes_context = cls.setup_context is function.setup_context

        def call(*args: Any, **kwargs: Any) -> Any:
            given = args[1:] if takes_context else args
            tensors = [t for t in pytree.tree_leaves(given) if isinstance(t, torch.Tensor)]
            if not calls.traces(tensors):
                return forward(*args, **kwargs)
            return _function_call(calls, cls, functools.partial(apply_own, **kwargs), given)

        return call

    with ExitStack() as stack:
        for cls in _all_subclasses(function):
            if not _is_of_torch(cls):
                stack.enter_context(replaced(cls, "forward", staticmethod(forward_of(cls))))
        stack.enter_context(replaced(function, "apply", classmethod(apply)))
        yield


def _is_of_torch(cls: type) -> bool:
    return cls.__module__.startswith(_OF_TORCH)


def _all_subclasses(cls: type) -> set[type]:
    found: set[type] = set(type.__subclasses__(cls))
    return found.union(*map(_all_subclasses, found)) if found else found


def _checkpointed(calls: Calls, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
    if any(isinstance(a, torch.Tensor) and a.requires_grad for a in args):
        with _in_checkpoint(calls):
            return function(*args)
    with torch.no_grad():
        return function(*args)


def _function_call(calls: Calls, cls: Any, original: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    leaves, spec = pytree.tree_flatten(args)
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    others = [repr(leaf) for i, leaf in enumerate(leaves) if i not in where]
    form = Form()

    def body(tensors: Tensors) -> list[torch.Tensor]:
        filled = list(leaves)
        for i, t in zip(where, tensors, strict=True):
            filled[i] = t
        return form.tensors_of(original(*pytree.tree_unflatten(filled, spec)))

    described = f"autograd Function {cls.__name__} ({place_of(cls)})"
    return form.filled(
        calls.record(
            [leaves[i] for i in where],
            body,
            name=identifier(cls.__name__),
            where=described,
            identity=f"{cls.__module__}.{cls.__qualname__}:{source_digest(cls)}({', '.join(others)})",
        )
    )


@contextmanager
def _in_checkpoint(calls: Calls) -> Iterator[None]:
    calls.checkpoints += 1
    try:
        yield
    finally:
        calls.checkpoints -= 1


@contextmanager
def _checkpointed_norms(calls: Calls) -> Iterator[None]:
    norm, library = nn.modules.batchnorm._BatchNorm, torch.utils.checkpoint
    own = norm.forward

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        moves = self.training and self.track_running_stats and self.momentum is not None
        if calls.checkpoints != 1 or not moves or not torch.is_grad_enabled():
            return own(self, x)
        momentum = self.momentum
        self.momentum = 1 - (1 - momentum) ** 2
        try:
            result = own(self, x)
        finally:
            self.momentum = momentum
        self.num_batches_tracked.add_(1)
        return result

    @contextmanager
    def noted(*args: Any, **kwargs: Any) -> Iterator[None]:
        with _in_checkpoint(calls):
            yield

    with ExitStack() as stack:
        stack.enter_context(replaced(norm, "forward", forward))
        stack.enter_context(replaced(library, "_checkpoint_hook", noted))  # of those that are not reentrant
        yield


# ---- hooks


class _NoHandle:
    """What `register_hook` returns in a trace."""

    def __init__(self, where: str) -> None:
        self._where = where

    def remove(self) -> None:
        """Refuses: what was recorded stays."""
        raise CaptureError(f"{self._where} is removed in forward: leave it in place, or set it around the step")


@contextmanager
def _tensor_hooks(calls: Calls) -> Iterator[None]:
    original = torch.Tensor.register_hook

    def register_hook(tensor: torch.Tensor, hook: Callable[[torch.Tensor], Any]) -> Any:
        if not calls.traces([tensor]):
            return original(tensor, hook)
        where = f"gradient hook {getattr(hook, '__name__', type(hook).__name__)} ({place_of(hook)})"
        if tensor.is_leaf:
            raise CaptureError(
                f"{where} is set on a parameter or input in forward: set it once, where the model is made"
            )
        mode = get_proxy_mode()
        tracked = mode.tracer.tensor_tracker  # type: ignore[union-attr]

        def body(tensors: Tensors) -> list[torch.Tensor]:
            shown = tensors[0].view_as(tensors[0])
            if shown.requires_grad and not isinstance(shown, FakeTensor):
                original(shown, hook)
            return [shown]

        (result,) = calls.record(
            [tensor],
            body,
            is_hook=True,
            name="gradient_hook",
            where=where,
            identity=f"gradient hook:{source_digest(hook)}",
        )
        tracked[tensor] = tracked[result]
        return _NoHandle(where)

    with replaced(torch.Tensor, "register_hook", register_hook):
        yield


# ---- modes, buffers and data


@contextmanager
def _buffers_in_place(calls: Calls, model: nn.Module, copied: Assigned) -> Iterator[None]:
    forward = model.forward

    def traced(*args: Any, **kwargs: Any) -> Any:
        before = {
            (owner, name): (module._buffers, tensor)
            for owner, module in model.named_modules()
            for name, tensor in module._buffers.items()
            if tensor is not None
        }
        for key in copied:
            table, tensor = before[key]
            table[key[1]] = tensor.clone()
        result = forward(*args, **kwargs)
        for key, (table, tensor) in before.items():
            now = table.get(key[1])
            if now is not None and now is not tensor:
                calls.assigned |= {key}
                with torch.no_grad():
                    tensor.copy_(now)
                table[key[1]] = tensor
        return result

    with replaced(model, "forward", traced):
        yield


@contextmanager
def _parameters_in_containers(model: nn.Module) -> Iterator[None]:
    """Within it, lists, tuples and dicts in attributes hold the parameters that are traced."""
    forward = model.forward
    owner = {id(p): (part, name) for part in model.modules() for name, p in part._parameters.items()}
    held = [
        (part, key, value)
        for part in model.modules()
        for key, value in vars(part).items()
        if type(value) in (list, tuple, dict) and key not in _TABLES
        if any(isinstance(leaf, nn.Parameter) for leaf in pytree.tree_leaves(value))
    ]

    def traced(*args: Any, **kwargs: Any) -> Any:
        now = {i: part._parameters[name] for i, (part, name) in owner.items()}
        with ExitStack() as stack:
            for part, key, value in held:
                shown = pytree.tree_map(lambda leaf: now.get(id(leaf), leaf), value)
                stack.enter_context(replaced(part, key, shown))
            return forward(*args, **kwargs)

    with replaced(model, "forward", traced) if held else nullcontext():
        yield


@contextmanager
def _inference_mode_without_gradients() -> Iterator[None]:
    mode = torch.autograd.grad_mode.inference_mode

    def enter(self: Any) -> None:
        self._drlpp_before = torch.is_grad_enabled()
        set_grad_enabled(not self.mode)

    def leave(self: Any, *unused: Any) -> None:
        set_grad_enabled(self._drlpp_before)

    with replaced(mode, "__enter__", enter), replaced(mode, "__exit__", leave):
        yield


@contextmanager
def _data_is_detached(calls: Calls) -> Iterator[None]:
    base = TensorBase.data

    def read(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach() if calls.traces([tensor]) else base.__get__(tensor)  # type: ignore[attr-defined]

    def write(tensor: torch.Tensor, value: torch.Tensor) -> None:
        if not calls.traces([tensor]):
            base.__set__(tensor, value)  # type: ignore[attr-defined]
        elif tensor.is_leaf and tensor.shape == value.shape and tensor.dtype is value.dtype:
            with torch.no_grad():
                tensor.detach().copy_(value)
        else:
            raise CaptureError("forward assigns to .data of a tensor: use copy_() under torch.no_grad()")

    with replaced(torch.Tensor, "data", property(read, write)):
        yield


@contextmanager
def _frozen_for_a_while(calls: Calls) -> Iterator[None]:
    """Parameters whose `requires_grad` is switched in forward."""
    flag, method = TensorBase.requires_grad, torch.Tensor.requires_grad_
    trained: dict[int, Any] = {}

    def switch(tensor: torch.Tensor, on: bool) -> None:
        mode = get_proxy_mode()
        if calls.traces([tensor]) and tensor.is_leaf and mode is not None and tensor in mode.tracer.tensor_tracker:
            tracked = mode.tracer.tensor_tracker
            if not on and tensor.requires_grad:
                trained[id(tensor)] = tracked[tensor]
                detached = tracked[tensor.detach()]
                flag.__set__(tensor, False)  # type: ignore[attr-defined]
                tracked[tensor] = detached
            elif on and id(tensor) in trained:
                tracked[tensor] = trained.pop(id(tensor))
        flag.__set__(tensor, on)  # type: ignore[attr-defined]

    def requires_grad_(tensor: torch.Tensor, requires_grad: bool = True) -> torch.Tensor:
        if not calls.traces([tensor]):
            return method(tensor, requires_grad)
        if tensor.is_leaf or not requires_grad:  # of others it changes nothing
            switch(tensor, requires_grad)
        return tensor

    def read(tensor: torch.Tensor) -> bool:
        return flag.__get__(tensor)  # type: ignore[attr-defined, no-any-return]

    with (
        replaced(torch.Tensor, "requires_grad", property(read, switch)),
        replaced(torch.Tensor, "requires_grad_", requires_grad_),
    ):
        yield


@contextmanager
def _no_derivatives(calls: Calls) -> Iterator[None]:
    """Derivatives inside of forward are refused: a graph of forward operators has no backward pass to differentiate."""
    engine = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def run(*args: Any, **kwargs: Any) -> Any:
        if calls.traces([t for t in pytree.tree_leaves(args) if isinstance(t, torch.Tensor)]):
            raise TraceError(
                "forward takes derivatives (torch.autograd.grad or backward): write them with tensor operators, or "
                "compute them in an autograd Function"
            )
        return engine(*args, **kwargs)

    with replaced(torch.autograd, "_engine_run_backward", run):
        yield


@contextmanager
def _no_context(calls: Calls) -> Iterator[None]:
    """What a graph has no place for: the state of the common generator, and hooks of autograd's own graph."""

    def refusing(original: Callable[..., Any], what: str) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if calls.going_on and (not args or type(args[0]) not in _HARMLESS):
                raise CaptureError(f"forward uses {what.format(place=users_line())}")
            return original(*args, **kwargs)

        return called

    with ExitStack() as stack:
        for owner, name, what in _REFUSED:
            stack.enter_context(replaced(owner, name, refusing(getattr(owner, name), what)))
        yield


@contextmanager
def _no_transforms(calls: Calls) -> Iterator[None]:
    """A transform of torch.func makes tensors of its own, which no graph can hold."""

    def refusing(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def begin(*args: Any) -> Any:
            if calls.going_on:
                raise TraceError(f"forward uses torch.func ({name}): write it with plain tensor operators")
            return original(*args)

        return begin

    with ExitStack() as stack:
        for owner, function, name in TRANSFORMS:
            stack.enter_context(replaced(owner, function, refusing(name, getattr(owner, function))))
        yield
