"""Hooks on the gradients of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drlpp.capture.parameter_hooks import copy_hooks, has_hooks, refuse_late_hooks
from drlpp.errors import CaptureError


def test_hooks_are_copied_once_and_in_order() -> None:
    source, target = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    source.register_hook(lambda g: g + 1)
    source.register_hook(lambda g: g * 2)
    assert has_hooks(source)
    assert not has_hooks(target)
    copy_hooks(source, target)
    copy_hooks(source, source)
    for p in (source, target):
        p.sum().backward()
        assert p.grad.tolist() == [4, 4]  # type: ignore[union-attr]


def test_a_frozen_copy_gets_none() -> None:
    source = nn.Parameter(torch.ones(2))
    source.register_hook(lambda g: g)
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    copy_hooks(source, frozen)
    assert not has_hooks(frozen)


def test_hooks_after_accumulation_are_refused() -> None:
    parameter = nn.Parameter(torch.ones(2))
    refuse_late_hooks("w", parameter)
    parameter.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(CaptureError, match="parameter 'w' has a post-accumulate-grad hook .*test_parameter_hooks.py"):
        refuse_late_hooks("w", parameter)
