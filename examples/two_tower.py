"""A model with two parallel branches: an image tower and a text tower that meet in a contrastive loss.

``drlpp plan examples/two_tower.py:build --cluster local-2`` plans it; each tower can run on its own device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageTower(nn.Module):
    """A small residual convolutional network. ``[B, 3, H, W]`` -> ``[B, width]``."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            for _ in range(blocks)
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return x.mean(dim=(2, 3))


class TextTower(nn.Module):
    """A small transformer encoder. ``[B, L]`` token ids -> ``[B, width]``."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True) for _ in range(layers)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return x.mean(dim=1)


class TwoTower(nn.Module):
    """Scores each image against each text of the batch; the loss asks for the matching pairs."""

    def __init__(self, width: int = 64, blocks: int = 4, layers: int = 4, vocabulary: int = 100_000) -> None:
        super().__init__()
        self.image_tower = ImageTower(width, blocks)
        self.text_tower = TextTower(vocabulary, width, layers)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        a = nn.functional.normalize(self.image_tower(image), dim=1)
        b = nn.functional.normalize(self.text_tower(tokens), dim=1)
        return self.scale.exp() * a @ b.T


def contrastive_loss(scores: Tensor) -> Tensor:
    """Cross entropy in both directions, the diagonal being right."""
    target = torch.arange(scores.shape[0], device=scores.device)
    return nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(scores.T, target)


def build() -> tuple[nn.Module, tuple[Tensor, Tensor], object]:
    """What ``FILE.py:callable`` has to return: the module, example inputs (one micro-batch), the loss function."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(8, 3, 64, 64, generator=generator)
    tokens = torch.randint(0, 100_000, (8, 64), generator=generator)
    return TwoTower(), (image, tokens), contrastive_loss
