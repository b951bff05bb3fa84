"""What the check of a capture costs: CPU seconds of the capture of models of one's own, without it and with it.

    python benchmarks/check_cost.py

Each capture is one of `drlpp.capture.capture` in this process, of a model without memory for its parameters; the
smallest of three counts (above 2 s, the first). Writes the table between the markers ``check-cost`` of
docs/benchmarks.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from drlpp.capture import capture, load_model
from tables import machine, markdown, write_section

Made = tuple[nn.Module, tuple[torch.Tensor, ...], Callable[..., torch.Tensor]]


class Block(nn.Module):
    """A residual block of a perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A residual block of a convolutional network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = ((4 * width, width, 1), (width, width, 3), (width, 4 * width, 1))
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, k, padding=k // 2), nn.BatchNorm2d(b), nn.ReLU()) for a, b, k in sizes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.layers(x))


class Gated(nn.Module):
    """Decides by values, so it is kept whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.mean() > 0 else x


class Recurrent(nn.Module):
    """A recurrent network that gives its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(16, 32, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)[0][:, -1]  # type: ignore[no-any-return]


def _of(module: nn.Module, *shape: int) -> Made:
    return module, (torch.randn(*shape),), lambda y: y.square().mean()


def linear_layers() -> Made:
    return _of(nn.Sequential(*(nn.Linear(8, 8) for _ in range(2048))), 4, 8)


def perceptron_blocks() -> Made:
    return _of(nn.Sequential(*(Block(16) for _ in range(200))), 4, 16)


def resnet_1000_layers() -> Made:
    return _of(nn.Sequential(nn.Conv2d(3, 32, 3), *(Bottleneck(8) for _ in range(333))), 2, 3, 10, 10)


def resnet_50_layers() -> Made:
    return _of(nn.Sequential(nn.Conv2d(3, 64, 3), *(Bottleneck(16) for _ in range(16))), 8, 3, 34, 34)


def encoder_12_layers() -> Made:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    return _of(nn.TransformerEncoder(layer, 12), 8, 32, 64)


def encoder_48_layers() -> Made:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    return _of(nn.TransformerEncoder(layer, 48), 2, 16, 64)


def recurrent() -> Made:
    return _of(Recurrent(), 8, 20, 16)


def values_decide() -> Made:
    return _of(nn.Sequential(*(nn.Sequential(Gated(), nn.Tanh()) for _ in range(20))), 8, 32)


def wide_perceptron() -> Made:
    return _of(nn.Sequential(*(Block(1024) for _ in range(6))), 16, 1024)


def one_layer() -> Made:
    return _of(nn.Linear(8, 8), 4, 8)


MODELS = (
    linear_layers,
    perceptron_blocks,
    resnet_1000_layers,
    resnet_50_layers,
    encoder_12_layers,
    encoder_48_layers,
    recurrent,
    values_decide,
    wide_perceptron,
    one_layer,
)


def seconds(spec: str, *, check: bool) -> tuple[float, str]:
    """CPU seconds of the fastest capture, and why it was not checked."""
    found: list[tuple[float, str]] = []
    while len(found) < 3 and (not found or found[0][0] < 2):
        begin = time.process_time()
        captured = capture(load_model(spec), check=check)
        found.append((time.process_time() - begin, captured.unchecked))
    return min(found)


def row(make: Callable[[], Made]) -> list[str]:
    """One model."""
    spec = f"{Path(__file__)}:{make.__name__}"
    without, _ = seconds(spec, check=False)
    checked, why = seconds(spec, check=True)
    ratio = f"{checked / without:.2f}"
    return [make.__name__.replace("_", " "), f"{without:.2f}", f"{checked:.2f}", ratio, why or "two passes"]


def main() -> None:
    """Captures all, and writes the table."""
    capture(load_model(f"{Path(__file__)}:one_layer"))
    table = markdown(["model", "CPU seconds without", "with the check", "ratio", "compared"], [row(m) for m in MODELS])
    text = f"{machine()}.\n\n{table}"
    print(text)
    write_section("check-cost", text)


if __name__ == "__main__":
    main()
