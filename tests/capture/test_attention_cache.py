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
