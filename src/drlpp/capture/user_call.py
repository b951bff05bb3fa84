"""An operator that runs the user's own Python: a custom `autograd.Function`, a hook on a gradient, a whole module.

torch.export records what such code calls in the forward pass and forgets what it does in the backward pass. Here the
code stays as it is: one fx node calls it with the tensors that it takes, and autograd asks it for gradients.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from drlpp.errors import CaptureError
from drlpp.torch_private import FakeTensor, disable_current_modes, parse_schema

Tensors = Sequence[torch.Tensor]
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
    """Runs the user's code; where it needs values and the tensors are fake, it runs on zeros to learn the shapes."""
    fake = next((t for t in tensors if isinstance(t, FakeTensor)), None)
    if fake is None:
        return body(tensors)
    try:
        return body(tensors)
    except CaptureError:
        raise
    except Exception:  # noqa: BLE001 (code that needs values fails in any way)
        mode = fake.fake_mode
        with disable_current_modes(), torch.enable_grad():
            real = [torch.zeros(t.shape, dtype=t.dtype).requires_grad_(t.requires_grad) for t in tensors]
            made = body(real)
        results = []
        with mode:
            for r in made:
                # The result depends on the inputs in a way that nobody looks into.
                sources = [t for t in tensors if t.requires_grad] if r.requires_grad else []
                value = torch.empty(r.shape, dtype=r.dtype)
                for t in sources:
                    value = value + t.reshape(-1)[:1].sum().to(value.dtype)
                results.append(value)
        return results


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
