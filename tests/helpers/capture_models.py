"""Small models for the tests of the capture, each with the constructs that make cutting hard."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Branchy(nn.Module):
    """Inception-like: batch norm, in-place activations, parallel branches, concatenation and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.left = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.middle = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.mix = nn.Conv2d(16, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = torch.cat([self.left(x), self.middle(x), self.pool(x)], dim=1)
        y = self.norm(self.mix(y))
        y += x
        y = F.relu(y, inplace=True)
        return self.head(y.mean((2, 3)))


class EncoderDecoder(nn.Module):
    """U-shaped transformer: the encoder's output goes to every decoder layer; embedding and head are tied."""

    def __init__(self, width: int = 16, vocabulary: int = 24, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True) for _ in range(layers)
        )
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(width, 2, 32, 0.0, batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        memory = self.embedding(source)
        for layer in self.encoder:
            memory = layer(memory)
        y = self.embedding(target)
        for layer in self.decoder:
            y = layer(y, memory)
        return F.cross_entropy(self.head(y).flatten(0, 1), target.flatten())


class TwoTowers(nn.Module):
    """Two branches without a common ancestor, joined by a contrastive loss; returns an object with `.loss`."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.GELU(), nn.Flatten(), nn.LazyLinear(8))
        self.text = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(8 * 6, 8))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.image(torch.zeros(1, 3, 9, 9))

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor) -> Any:
        a, b = F.normalize(self.image(pixels), dim=-1), F.normalize(self.text(tokens), dim=-1)
        logits = self.scale.exp() * a @ b.t()
        labels = torch.arange(len(pixels))
        return {"loss": (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2, "logits": logits}


class Recurrent(nn.Module):
    """LSTM (a tuple of results), then a cell unrolled by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.cell = nn.GRUCell(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequence, (hidden, _) = self.lstm(x)
        state = hidden[-1]
        for i in range(3):
            state = self.cell(sequence[:, i], state)
        return self.head(state)


class InPlace(nn.Module):
    """Views that are written to, readers before the write, a buffer that counts, a region without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("average", torch.zeros(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        before = h.sigmoid()
        h[:, :3].mul_(2.0)
        with torch.no_grad():
            self.average.mul_(0.9).add_(h.mean(0), alpha=0.1)
            self.seen += 1
        scratch = torch.zeros_like(h)
        scratch[:, 1:] = self.second(h)[:, :-1]
        small, large = scratch.split([2, 4], dim=1)
        return (before * h).sum(1) + small.sum(1) * large.mean(1) + (self.average.detach() * h).sum(1)


def inputs_of(name: str) -> tuple[nn.Module, Any, Any]:
    """(module, example inputs, loss_fn) of a model by name, with fixed random values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "branchy":
            return Branchy(), (torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])), F.cross_entropy
        if name == "encoder-decoder":
            return EncoderDecoder(), {k: torch.randint(0, 24, (3, 5)) for k in ("source", "target")}, None
        if name == "two-towers":
            return TwoTowers(), [torch.randn(4, 3, 9, 9), torch.randint(0, 20, (4, 6))], None
        if name == "recurrent":
            return Recurrent(), (torch.randn(4, 5, 6), torch.tensor([0, 1, 2, 0])), nn.CrossEntropyLoss()
        if name == "in-place":
            return InPlace(), torch.randn(4, 6), lambda output: output.square().mean()
        raise ValueError(name)


NAMES = ("branchy", "encoder-decoder", "two-towers", "recurrent", "in-place")
