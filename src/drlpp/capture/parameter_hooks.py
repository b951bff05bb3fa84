"""Hooks on the gradients of parameters: the copies of a parameter that a stage trains have them, too."""

from __future__ import annotations

import torch

from drlpp.capture.user_call import place_of
from drlpp.errors import CaptureError


def has_hooks(parameter: torch.Tensor) -> bool:
    """Whether the user set hooks on the gradient of a parameter."""
    return bool(parameter._backward_hooks)


def copy_hooks(source: torch.Tensor, target: torch.Tensor) -> None:
    """Sets the hooks of one parameter on another."""
    if source is not target and target.requires_grad:
        for hook in (source._backward_hooks or {}).values():
            target.register_hook(hook)


def refuse_late_hooks(name: str, parameter: torch.Tensor) -> None:
    """Raises CaptureError for a hook that runs when a gradient was accumulated: a step accumulates several times."""
    hooks = getattr(parameter, "_post_accumulate_grad_hooks", None)
    if hooks:
        hook = next(iter(hooks.values()))
        raise CaptureError(
            f"parameter {name!r} has a post-accumulate-grad hook ({place_of(hook)}): a step accumulates the "
            "gradients of several micro-batches on several ranks; do its work after the step"
        )
