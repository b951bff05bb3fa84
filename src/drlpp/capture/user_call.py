"""An operator that runs the user's own Python: a custom `autograd.Function`, a hook on a gradient, a whole module.

torch.export records what such code calls in the forward pass and forgets what it does in the backward pass. Here the
code stays as it is: one fx node calls it with the tensors that it takes, and autograd asks it for gradients.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from drlpp.errors import CaptureError
from drlpp.torch_private import (
    DisableTorchFunction,
    FakeTensor,
    FakeTensorMode,
    TorchDispatchMode,
    disable_current_modes,
    parse_schema,
)

T = TypeVar("T")
Tensors = Sequence[torch.Tensor]
NOTHING: Mapping[int, torch.Tensor] = MappingProxyType({})
STATISTICS, TRAINING_FLAGS = ("running_mean", "running_var"), ("training", "train", "use_input_stats")
"""Arguments of norms: statistics that they update, and flags of which one says so."""
Body = Callable[[Tensors], list[torch.Tensor]]
"""Tensor arguments -> tensor results, recorded by autograd."""


class UserCall:
    """The target of an fx node that runs the user's code.

    Args:
        name: a Python identifier; the fx node is named after it.
        where: for people: what it is and where it is written.
        identity: equal for calls that do the same work (with the same shapes).
        body: runs it.
        num_inputs, num_outputs: of its tensors.
        views: outputs that show the memory of an input -> the input.
        without_gradient: outputs that the user marked as not differentiable.
        is_hook: it is the identity, and has a hook on the gradient.

    Attributes:
        num_outputs: the node's value is a tensor if it is 1, else a list.
    """

    __module__ = "drlpp.user"

    def __init__(
        self,
        name: str,
        where: str,
        identity: str,
        body: Body,
        *,
        num_inputs: int,
        num_outputs: int,
        views: dict[int, int],
        without_gradient: frozenset[int] = frozenset(),
        is_hook: bool = False,
    ) -> None:
        self.__name__ = self.__qualname__ = name
        self.where = where
        self.num_outputs = num_outputs
        self.without_gradient = without_gradient
        self.is_hook = is_hook
        self._identity = identity
        self._body = body
        # What other operators say of their arguments: which ones share memory with results.
        letter = {k: chr(ord("a") + i) for i, k in enumerate(sorted(set(views.values())))}
        marks = [f"({letter[i]})" if i in letter else "" for i in range(num_inputs)]
        results = [f"Tensor({letter[views[k]]})" if k in views else "Tensor" for k in range(num_outputs)]
        given = ", ".join(f"Tensor{mark} x{i}" for i, mark in enumerate(marks))
        self._schema = parse_schema(f"user::call({given}) -> ({', '.join(results)})")

    def __str__(self) -> str:
        return self._identity

    def __call__(self, *tensors: torch.Tensor) -> Any:
        results = run_body(self._body, tensors)
        return results[0] if self.num_outputs == 1 else results


def run_body(body: Body, tensors: Tensors) -> list[torch.Tensor]:
    """Runs the user's code; on real tensors, to learn the shapes, where fake ones are given and it needs values."""
    fake = next((t for t in tensors if isinstance(t, FakeTensor)), None)
    if fake is None:
        return body(tensors)
    try:
        with _forgetting_sizes(fake.fake_mode), DisableTorchFunction():
            results = body(tensors)
    except CaptureError:
        raise
    except Exception:  # noqa: BLE001 (code that needs values fails in any way)
        results = []
    if results and not any(isinstance(n, torch.SymInt) for r in results for n in r.shape):
        return results
    with _untraced():
        made = on_values(body, [(tuple(t.shape), t.dtype, t.requires_grad) for t in tensors])
    results = []
    with fake.fake_mode:
        for r in made:
            # The result depends on the inputs in a way that nobody looks into.
            sources = [t for t in tensors if t.requires_grad] if r.requires_grad else []
            value = torch.empty(r.shape, dtype=r.dtype)
            for t in sources:
                value = value + t.reshape(-1)[:1].sum().to(value.dtype)
            results.append(value)
    return results


def on_values(
    run: Callable[[list[torch.Tensor]], T], described: Sequence[tuple[tuple[int, ...], torch.dtype, bool]]
) -> T:
    """Runs code that needs values on zeros, or, where it fails on them (as lengths), on ones.

    Args:
        described: shape, type and `requires_grad` of each tensor.
    """
    try:
        return run([torch.zeros(s, dtype=d, requires_grad=g) for s, d, g in described])
    except CaptureError:
        raise
    except Exception:  # noqa: BLE001 (what fails on ones too is told)
        return run([torch.ones(s, dtype=d, requires_grad=g) for s, d, g in described])


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a run of user code on copies of its arguments showed.

    Attributes:
        changed: positions of the arguments that it changes in place.
        foreign: shape of a tensor with a gradient that it uses and that is no argument; None if there is none.
    """

    changed: list[int]
    foreign: list[int] | None


def trial(body: Body, tensors: Tensors, known: Mapping[int, torch.Tensor] = NOTHING) -> Trial:
    """Runs user code on copies.

    Args:
        known: position -> the value of a tensor, where it matters.
    """

    def leaves(results: list[torch.Tensor], own: set[int]) -> dict[int, torch.Tensor]:
        return {id(t): t for r in results for t in _leaves_of(r) if id(t) not in own}

    def run(copies: list[torch.Tensor]) -> Trial:
        shown = [t.view_as(t) if t.requires_grad else t for t in copies]
        own = {id(t) for t in copies}
        if not any(isinstance(t, FakeTensor) for t in copies):
            shown = [known[i].clone() if i in known else t for i, t in enumerate(shown)]
        before = [t.detach().clone() for t in shown]
        with Written() as written:
            found = leaves(body(shown), own)
        changed = [i for i, t in enumerate(shown) if written.memory_of(t) or not _same(t, before[i])]
        if found:  # those that the code makes itself are others when it runs again
            found = {i: t for i, t in leaves(body(shown), own).items() if i in found}
        return Trial(changed, next((list(t.shape) for t in found.values()), None))

    described = [(tuple(t.shape), t.dtype, t.requires_grad) for t in tensors]
    with _untraced():
        try:
            with FakeTensorMode():
                return run([torch.zeros(s, dtype=d, requires_grad=g) for s, d, g in described])
        except CaptureError:
            raise
        except Exception:  # noqa: BLE001 (it needs values)
            return on_values(run, described)


class Written(TorchDispatchMode):
    """Notes what operators write. The versions of tensors tell less: they do not count running statistics that norms
    update, nor writes to `Tensor.data`."""

    def __init__(self) -> None:
        super().__init__()
        self._memory: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = func._schema.arguments
        given = dict(zip((a.name for a in arguments), args, strict=False)) | (kwargs or {})
        names = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        if any(given.get(flag) for flag in TRAINING_FLAGS):
            names += STATISTICS
        found = (given.get(name) for name in names)
        self._memory |= {t.untyped_storage()._cdata for t in found if _has_memory(t)}  # type: ignore[union-attr]
        return func(*args, **(kwargs or {}))

    def memory_of(self, tensor: torch.Tensor) -> bool:
        """Whether the memory that a tensor shows was written."""
        return _has_memory(tensor) and tensor.untyped_storage()._cdata in self._memory


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors have the same values; those that have none (fake ones) pass."""
    return isinstance(a, FakeTensor) or torch.equal(a, b)


def _has_memory(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _leaves_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The leaves of autograd that a tensor depends on."""
    found, seen, left = [], set(), [tensor.grad_fn] if tensor.grad_fn is not None else []
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.append(leaf)
        left += [n for n, _ in node.next_functions if n is not None]
    return found


@contextmanager
def _untraced() -> Iterator[None]:
    """Outside of the trace that goes on."""
    with disable_current_modes(), DisableTorchFunction(), torch.enable_grad():
        yield


def _forgetting_sizes(mode: FakeTensorMode) -> AbstractContextManager[object]:
    """Sizes that depend on values, and that code which failed has left behind, are forgotten."""
    return nullcontext() if mode.shape_env is None else mode.shape_env.ignore_fresh_unbacked_symbols()


def identifier(name: str) -> str:
    """A name that fx can give to a node: letters, digits and underscores."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_").lower() or "user"


def place_of(function: object) -> str:
    """``file.py:12`` where a function or class is written; its name if that is not known."""
    function = getattr(function, "__func__", function)
    function = getattr(function, "func", function)
    try:
        file = inspect.getsourcefile(function)  # type: ignore[arg-type]
        _, line = inspect.getsourcelines(function)  # type: ignore[arg-type]
    except (TypeError, OSError):
        return getattr(function, "__qualname__", type(function).__qualname__)
    return f"{Path(file).name if file else '?'}:{line}"


def source_digest(thing: object) -> str:
    """Digest of the source code of a function or class, so that changed code is other work."""
    try:
        text = inspect.getsource(thing)  # type: ignore[arg-type]
    except (TypeError, OSError):
        text = repr(thing)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
