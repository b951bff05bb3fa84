"""Ways to divide the ops of captured models."""

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.graph import OpGraph, Part


class Block(nn.Module):
    """A transformer block with one matrix for queries, keys and values, and a head."""

    def __init__(self, hidden: int = 32, heads: int = 4, vocab: int = 64) -> None:
        super().__init__()
        self.embed, self.heads = nn.Embedding(vocab, hidden), heads
        self.norm, self.qkv, self.out = nn.LayerNorm(hidden), nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.head = nn.Linear(hidden, vocab, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        b, s, h = x.shape
        q, k, v = self.qkv(self.norm(x)).split(h, dim=-1)
        q, k, v = (t.view(b, s, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, s, h))
        x = x + self.down(nn.functional.gelu(self.up(x)))
        logits = self.head(x)
        return nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), tokens.view(-1))


@pytest.fixture(scope="module")
def graph() -> OpGraph:
    tokens = torch.randint(0, 64, (2, 16))
    return capture_module(Block(), tokens).graph


def splits(graph: OpGraph, param: str) -> dict[str, list[Part]]:
    op = next(op for op in graph.ops if param in op.params)
    return {split.axis: [part for part in split.reads if part.tensor == param] for split in op.splits}


def test_products_are_divided_by_rows_columns_and_sequence(graph):
    found = splits(graph, "up.weight")
    assert found["columns"] == [Part("up.weight", 0)]
    assert found["rows"] == [Part("up.weight", 1)]
    assert found["sequence"] == []


def test_queries_keys_and_values_of_one_matrix_are_divided_by_heads(graph):
    op = next(op for op in graph.ops if "qkv.weight" in op.params)
    fused = [s for s in op.splits if Part("qkv.weight", 0, (32,)) in s.reads]
    assert [s.size for s in fused] == [32]
    pieces = next(op for op in graph.ops if any(m.startswith("split") for m in op.members))
    assert any(s.size == 4 and s.reads[0].sections == (32,) for s in pieces.splits)


def test_embedding_and_loss_are_divided_by_the_vocabulary(graph):
    assert splits(graph, "embed.weight")["vocabulary"] == [Part("embed.weight", 0)]
    loss = graph.ops[-1]
    assert [(s.axis, s.size, s.gives) for s in loss.splits] == [("vocabulary", 64, ())]


def test_a_product_keeps_the_part_that_it_reads(graph):
    op = next(op for op in graph.ops if "down.weight" in op.params)
    rows, columns = (next(s for s in op.splits if s.axis == axis) for axis in ("rows", "columns"))
    assert rows.keeps == op.saved
    assert columns.keeps == ()


def test_nothing_is_divided_along_the_samples():
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).relu().sum()

    graph = capture_module(Rows(), torch.randn(6, 8)).graph
    sizes = {split.size for op in graph.ops for split in op.splits}
    assert sizes == {8}


def test_random_ops_and_changed_buffers_are_not_divided():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(4, 8, 3)
            self.register_buffer("seen", torch.zeros(2, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            self.seen[0].add_(y.detach().mean((0, 2, 3)))
            return nn.functional.rrelu(y, training=True).sum()

    graph = capture_module(Noisy(), torch.randn(2, 4, 8, 8)).graph
    divided = {op.kind for op in graph.ops if op.splits}
    assert divided <= {"aten.conv2d.3x3", "aten.sum"}


def test_one_sample_has_the_splits_of_many(graph):
    one = capture_module(Block(), torch.randint(0, 64, (1, 16))).graph
    assert [op.splits for op in one.ops] == [op.splits for op in graph.ops]
