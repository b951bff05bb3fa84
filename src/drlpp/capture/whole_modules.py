"""Modules that are one operator, which runs the user's code with the tensors of the module as arguments."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from drlpp.capture.recording import Calls, Form, replaced
from drlpp.capture.user_call import Tensors, identifier, source_digest
from drlpp.torch_private import pytree


@contextmanager
def whole_module(calls: Calls, name: str, module: nn.Module) -> Iterator[None]:
    """A module with backward hooks, as one operator."""
    hooks = module._backward_hooks, module._backward_pre_hooks
    forward = module.forward
    where = f"module {name!r} ({type(module).__name__}) with backward hooks"

    def traced(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        owned = dict(itertools.chain(module.named_parameters(), module.named_buffers()))
        form = Form()

        def body(tensors: Tensors) -> list[torch.Tensor]:
            filled = list(leaves)
            for i, t in zip(places, tensors, strict=False):
                filled[i] = t
            given, named = pytree.tree_unflatten(filled, spec)
            own = dict(zip(owned, tensors[len(places) :], strict=True))
            with (
                replaced(module, "_backward_hooks", hooks[0]),
                replaced(module, "_backward_pre_hooks", hooks[1]),
                replaced(module, "forward", forward),
            ):
                result = torch.func.functional_call(module, own, given, named)
            return form.tensors_of(result)

        return form.filled(
            calls.record(
                [*(leaves[i] for i in places), *owned.values()],
                body,
                name=identifier(type(module).__name__),
                where=where,
                identity=f"module:{type(module).__qualname__}:{source_digest(type(module))}({module!r})",
            )
        )

    empty: Any = type(hooks[0])()
    with (
        replaced(module, "_backward_hooks", empty),
        replaced(module, "_backward_pre_hooks", type(hooks[1])()),
        replaced(module, "forward", traced),
    ):
        yield
