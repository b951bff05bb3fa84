"""Parameters that the loss does not read: they take memory all the same, and have a place in every plan.

Each is given to the op whose module is nearest to its own, as if the op read it, so that it counts where the rest of
its module is. It has no gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import nn

from drlpp.capture.export import ExportedModel
from drlpp.capture.model_state import loss_tensors, module_tensors
from drlpp.graph import Op


def unread_parameters(exported: ExportedModel) -> dict[str, nn.Parameter]:
    """Parameters of the module and of its loss that the graph does not read; a tied one has its first name."""
    read = {n for n, _ in exported.module.named_parameters()} | set(exported.aliases)
    own = module_tensors(exported.call.module) | loss_tensors(exported.call.loss_fn)
    return {n: t for n, t in own.items() if isinstance(t, nn.Parameter) and n not in read}


def with_unread(ops: Sequence[Op], names: Mapping[str, object]) -> tuple[Op, ...]:
    """The ops, with each of some parameters given to the nearest: the first with the longest common module path."""
    out = list(ops)
    for name in names if ops else ():
        owner = name.split(".")[:-1]
        nearest = max(range(len(ops)), key=lambda i: _common(owner, ops[i].module.split(".")))
        out[nearest] = dataclasses.replace(out[nearest], params=(*out[nearest].params, name))
    return tuple(out)


def _common(path: Sequence[str], other: Sequence[str]) -> int:
    """Parts at the beginning of two module paths that are equal."""
    same = (a == b for a, b in zip(path, other, strict=False))
    return next((i for i, equal in enumerate(same) if not equal), min(len(path), len(other)))
