"""Keys and values of one token, where heads share them by expansion, by repetition, or not at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from drlpp.capture import capture_module

SAMPLES, HEADS, TOKENS, SIZE = 2, 4, 6, 8


class Attention(nn.Module):
    def __init__(self, kv_heads: int, way: str) -> None:
        super().__init__()
        self.way, self.kv_heads = way, kv_heads
        self.kv = nn.Linear(HEADS * SIZE, 2 * kv_heads * SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q = x.view(b, t, HEADS, SIZE).transpose(1, 2)
        k, v = (h.view(b, t, self.kv_heads, SIZE).transpose(1, 2) for h in self.kv(x).chunk(2, -1))
        times = HEADS // self.kv_heads
        if self.way == "expand":
            k, v = (h[:, :, None].expand(-1, -1, times, -1, -1).reshape(b, HEADS, t, SIZE) for h in (k, v))
        elif self.way == "repeat":
            k, v = (h.repeat_interleave(times, dim=1) for h in (k, v))
        return scaled_dot_product_attention(q, k, v).sum()


@pytest.mark.parametrize(("kv_heads", "way"), [(4, "none"), (2, "expand"), (1, "repeat")])
def test_bytes_of_a_token(kv_heads, way):
    graph = capture_module(Attention(kv_heads, way), [torch.ones(SAMPLES, TOKENS, HEADS * SIZE)]).graph
    assert sum(op.kv_bytes_per_token for op in graph.ops) == 2 * kv_heads * SIZE * 4
    assert graph.tokens_per_sample == TOKENS


def test_without_attention_there_is_nothing_to_keep():
    graph = capture_module(nn.Linear(4, 1), [torch.ones(3, 4)], lambda out: out.sum()).graph
    assert sum(op.kv_bytes_per_token for op in graph.ops) == 0
    assert graph.tokens_per_sample == 1


class Products(nn.Module):
    """Attention as two products around a softmax, with scaled, capped and masked scores."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(HEADS * SIZE, HEADS * SIZE), nn.Linear(HEADS * SIZE, 2 * 2 * SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, HEADS, SIZE).transpose(1, 2)
        k, v = (h.view(b, t, 2, SIZE).transpose(1, 2) for h in self.kv(x).chunk(2, -1))
        k, v = (h[:, :, None].expand(-1, -1, 2, -1, -1).reshape(b, HEADS, t, SIZE) for h in (k, v))
        scores = torch.tanh((q @ k.transpose(2, 3)) / 8.0) * 8.0
        scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -1e9)
        weights = nn.functional.dropout(torch.softmax(scores.float(), -1).to(q.dtype), 0.1)
        return (weights @ v).sum()


def test_attention_of_two_products_keeps_the_same():
    graph = capture_module(Products(), [torch.ones(SAMPLES, TOKENS, HEADS * SIZE)]).graph
    kept = [op.kv_bytes_per_token for op in graph.ops if op.kv_bytes_per_token]
    assert kept == [2 * SIZE * 4, 2 * SIZE * 4]
    assert graph.tokens_per_sample == TOKENS


class Latent(nn.Module):
    """Keys and values unfolded from a latent, and a part of the keys that all heads share."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.q, self.norm = nn.Linear(HEADS * SIZE, HEADS * SIZE), nn.RMSNorm(latent)
        self.down, self.up = nn.Linear(HEADS * SIZE, latent + 2), nn.Linear(latent, HEADS * (2 * SIZE - 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, HEADS, SIZE).transpose(1, 2)
        latent, shared = self.down(x).split([self.latent, 2], -1)
        kv = self.up(self.norm(latent)).view(b, t, HEADS, 2 * SIZE - 2).transpose(1, 2)
        k, v = kv.split([SIZE - 2, SIZE], -1)
        k = torch.cat([k, shared.sin().view(b, 1, t, 2).expand(-1, HEADS, -1, -1)], -1)
        return scaled_dot_product_attention(q, k, v).sum()


@pytest.mark.parametrize(("latent", "kept"), [(6, 6 + 2), (30, 2 * HEADS * SIZE)])
def test_a_latent_is_kept_where_it_is_smaller(latent, kept):
    graph = capture_module(Latent(latent), [torch.ones(SAMPLES, TOKENS, HEADS * SIZE)]).graph
    assert sum(op.kv_bytes_per_token for op in graph.ops) == kept * 4


class AfterProjection(nn.Module):
    """A projected and normalised input is no latent: keys and values are made of it in one step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.attention = nn.Linear(5, HEADS * SIZE), nn.LayerNorm(HEADS * SIZE), Attention(4, "")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(self.norm(self.first(x)))


def test_an_input_that_is_projected_is_no_latent():
    graph = capture_module(AfterProjection(), [torch.ones(SAMPLES, TOKENS, 5)]).graph
    assert sum(op.kv_bytes_per_token for op in graph.ops) == 2 * HEADS * SIZE * 4
