"""Masks of transformers 4: the same by broadcasting as by vmap. Masks of nn.Transformer: taken as they are."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.capture.attention_masks import masks_as_they_are, masks_by_broadcasting

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


class Translator(nn.Module):
    """An encoder and a decoder with a causal mask and one of padding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 8)
        self.both = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True)

    def forward(self, ids):
        x, causal = self.words(ids), nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        padding = ids == 0
        out = self.both(x, x, causal, causal, src_key_padding_mask=padding, tgt_key_padding_mask=padding)
        return out.square().mean()


def test_the_layers_of_a_transformer_can_be_cut():
    captured = capture_module(Translator(), torch.randint(1, 9, (2, 5)))
    assert captured.unchecked == ""
    assert captured.graph.num_ops > 20


def test_the_look_at_masks_comes_back():
    find = nn.modules.transformer._detect_is_causal_mask
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    with masks_as_they_are():
        assert nn.modules.transformer._detect_is_causal_mask(mask) is False
    assert nn.modules.transformer._detect_is_causal_mask is find
    assert find(mask) is True
