"""Calls of the user's own code that a trace records as operators of their own: `Calls`.

Each is recorded as a call of ``drlpp::user_call`` with the number of its `UserCall`; the caller of torch.export puts
the `UserCall` itself in its place (`Calls.of`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from drlpp.capture.failures import TraceError
from drlpp.capture.user_call import Tensors, UserCall, Written, run_body
from drlpp.torch_private import FakeTensor, get_proxy_mode, pytree

_LIBRARY = torch.library.Library("drlpp", "FRAGMENT")
_LIBRARY.define("user_call(Tensor[] inputs, int number) -> Tensor[]")
_NUMBERS = itertools.count()
_BODIES: dict[int, Callable[[Tensors], list[torch.Tensor]]] = {}


def _run(inputs: list[torch.Tensor], number: int) -> list[torch.Tensor]:
    return run_body(_BODIES[number], inputs)


_LIBRARY.impl("user_call", _run, "Autograd")
_LIBRARY.impl("user_call", _run, "CompositeExplicitAutograd")
torch.library.register_fake("drlpp::user_call", _run, lib=_LIBRARY)
USER_CALL = torch.ops.drlpp.user_call.default


Assigned = frozenset[tuple[str, str]]
"""Buffers: path of the module, and name."""


class Calls:
    """The user's calls that one trace met.

    Attributes:
        assigned: buffers that ``forward`` assigned anew.
        checkpoints: that the trace is in now.
        checks: places of checks on values that the trace passed by, in order.
    """

    def __init__(self) -> None:
        self.assigned: Assigned = frozenset()
        self.checkpoints = 0
        self.checks: dict[str, None] = {}
        self._calls: dict[int, UserCall] = {}
        self._numbers: list[int] = []
        self._inside = False

    def __bool__(self) -> bool:
        return bool(self._calls)

    def of(self, number: int) -> UserCall:
        """The call that a recorded number stands for."""
        return self._calls[number]

    @property
    def going_on(self) -> bool:
        """Whether something is traced now, outside of all user's calls."""
        return get_proxy_mode() is not None and not self._inside

    def traces(self, tensors: Tensors) -> bool:
        """Whether these are tensors of a trace that goes on, outside of all user's calls."""
        return self.going_on and any(isinstance(t, FakeTensor) for t in tensors)

    def record(self, tensors: Tensors, body: Any, **described: Any) -> list[torch.Tensor]:
        """Calls `body` on tensors that are traced, as one operator."""
        number = next(_NUMBERS)
        _BODIES[number] = body
        self._numbers.append(number)
        self._inside = True
        try:
            with Written() as written:
                results: list[torch.Tensor] = USER_CALL(list(tensors), number)
        finally:
            self._inside = False
        if changed := [i for i, t in enumerate(tensors) if written.memory_of(t)]:
            raise TraceError(
                f"{described['where']} changes its argument {changed[0]} in place: have it return a new tensor instead"
            )
        memory = {t.untyped_storage()._cdata: i for i, t in enumerate(tensors)}
        shared = {k: memory.get(r.untyped_storage()._cdata) for k, r in enumerate(results)}
        self._calls[number] = UserCall(
            body=body,
            num_inputs=len(tensors),
            num_outputs=len(results),
            views={k: i for k, i in shared.items() if i is not None},
            without_gradient=_unmarked(tensors, results),
            **described,
        )
        return results

    def forget(self) -> None:
        """Lets go of what only the trace needed."""
        for number in self._numbers:
            _BODIES.pop(number, None)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets an attribute of a class or module, and puts back what was there."""
    absent = object()
    before = vars(owner).get(name, absent)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is absent:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _unmarked(tensors: Tensors, results: list[torch.Tensor]) -> frozenset[int]:
    """Results without a gradient, where arguments have one."""
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return frozenset()
    return frozenset(k for k, r in enumerate(results) if not r.requires_grad)


class Form:
    """How the results of a user's call are nested: its tensors, and what is no tensor."""

    def __init__(self) -> None:
        self._leaves: list[Any] = []
        self._spec: pytree.TreeSpec | None = None

    def tensors_of(self, result: Any) -> list[torch.Tensor]:
        """The tensors of a result, whose form is noted."""
        self._leaves, self._spec = pytree.tree_flatten(result)
        tensors = [leaf for leaf in self._leaves if isinstance(leaf, torch.Tensor)]
        self._leaves = [_TENSOR if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves]
        return tensors

    @property
    def others(self) -> list[Any]:
        """The leaves that are no tensors."""
        return [leaf for leaf in self._leaves if leaf is not _TENSOR]

    def filled(self, tensors: list[torch.Tensor]) -> Any:
        """A result of this form with other tensors."""
        left = iter(tensors)
        leaves = [next(left) if leaf is _TENSOR else leaf for leaf in self._leaves]
        return leaves if self._spec is None else pytree.tree_unflatten(leaves, self._spec)


_TENSOR = object()
