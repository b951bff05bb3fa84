"""Statistics of batch norm that are combined out of order equal those of a run in order."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from drlpp.runtime.reduction import CombinedBuffers


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_combined_in_any_order(order: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(8, 4) + m for m in range(3)]
    expected, module = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    for start in (expected, module):
        start.running_mean = torch.arange(4.0)
    for x in inputs:
        expected(x)
    combined = CombinedBuffers(
        module, {"running_mean": 0.9, "running_var": 0.9, "num_batches_tracked": 1.0}, 3, group=None
    )
    for m in order:
        own = dict(module.named_buffers())
        zeros = combined.zeros()
        for name, zero in zeros.items():
            setattr(module, name, zero)
        module(inputs[m])
        for name, tensor in own.items():
            setattr(module, name, tensor)
        combined.add(m, zeros)
    combined.finish()
    assert module.num_batches_tracked == 3
    assert torch.allclose(module.running_mean, expected.running_mean, rtol=1e-6)
    assert torch.allclose(module.running_var, expected.running_var, rtol=1e-6)
