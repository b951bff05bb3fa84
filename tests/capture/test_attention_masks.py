"""Masks of transformers 4: the same by broadcasting as by vmap."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from drlpp.capture.attention_masks import masks_by_broadcasting

SIZES = (2, 1, 3, 5)


def vmapped(mask_function, bh_indices=True):
    places = [(None, None, None, 0), (None, None, 0, None)]
    if bh_indices:
        places += [(None, 0, None, None), (0, None, None, None)]
    for place in places:
        mask_function = torch.vmap(mask_function, in_dims=place)
    return mask_function


@pytest.fixture
def masks(monkeypatch):
    module = SimpleNamespace(_vmap_for_bhqkv=vmapped, TransformGetItemToIndex=object)
    monkeypatch.setitem(sys.modules, "transformers.masking_utils", module)
    return module


@pytest.mark.parametrize("samples_and_heads", [True, False])
@pytest.mark.parametrize(
    "mask_function",
    [
        lambda b, h, q, kv: kv <= q,
        lambda b, h, q, kv: (kv <= q) & (kv > q - 2) & q.new_ones((), dtype=torch.bool),
        lambda b, h, q, kv: kv >= 2,
    ],
)
def test_equals_vmap(masks, mask_function, samples_and_heads):
    indices = [torch.arange(n) for n in SIZES]
    if not samples_and_heads:
        indices[:2] = [None, None]
    wanted = vmapped(mask_function, samples_and_heads)(*indices)
    with masks_by_broadcasting():
        found = masks._vmap_for_bhqkv(mask_function, samples_and_heads)(*indices)
    assert torch.equal(found, wanted)
    assert masks._vmap_for_bhqkv is vmapped
    assert masks.TransformGetItemToIndex is object


def test_a_mask_that_reads_a_tensor(masks):
    padding = torch.tensor([[True] * 5, [True, True, False, False, False]])
    indices = [torch.arange(n) for n in SIZES]
    with masks_by_broadcasting():
        found = masks._vmap_for_bhqkv(lambda b, h, q, kv: padding[b, kv])(*indices)
    assert torch.equal(found, padding[:, None, None, :].expand(SIZES))


@pytest.mark.parametrize("module", [None, SimpleNamespace(sdpa_mask=max)])
def test_other_releases_are_left_alone(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "transformers.masking_utils", module)
    with masks_by_broadcasting():
        assert not hasattr(module, "_vmap_for_bhqkv")
