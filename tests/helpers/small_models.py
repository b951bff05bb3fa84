"""Small models, each with a construct that a pipeline can get wrong. Each function returns (module, inputs)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

Made = tuple[nn.Module, tuple[Any, ...]]


class _Model(nn.Module):
    """A module whose forward pass is a function of itself and the inputs."""

    def __init__(self, forward: Any, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._function = forward

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._function(self, *inputs)  # type: ignore[no-any-return]


def chain() -> Made:
    def forward(s: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(s.d(torch.tanh(s.c(torch.tanh(s.b(torch.tanh(s.a(x))))))), t)

    parts = {"a": nn.Linear(6, 12), "b": nn.Linear(12, 12), "c": nn.Linear(12, 12), "d": nn.Linear(12, 2)}
    return _Model(forward, **parts), (torch.randn(4, 6), torch.randn(4, 2))


def skip_fan_out() -> Made:
    def forward(s: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = torch.relu(s.a(x))
        u = torch.relu(s.b(h)) + h
        v = torch.sigmoid(s.c(u)) * h
        return F.mse_loss(s.d(torch.cat([u, v, h], -1)), t)

    parts = {"a": nn.Linear(6, 12), "b": nn.Linear(12, 12), "c": nn.Linear(12, 12), "d": nn.Linear(36, 2)}
    return _Model(forward, **parts), (torch.randn(4, 6), torch.randn(4, 2))


def branches() -> Made:
    """Convolutions in parallel branches, batch norm, in-place ReLU."""

    def forward(s: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = s.relu(s.bn0(s.c0(x)))
        a = s.relu(s.bn1(s.c1(h)))
        b = s.relu(s.bn2(s.c2(s.pool(h))))
        c = s.c3(h)
        y = torch.cat([a, b, c + a], 1).mean((2, 3))
        return F.cross_entropy(s.head(y), t)

    parts: dict[str, nn.Module] = {
        "c0": nn.Conv2d(2, 4, 3, padding=1),
        "bn0": nn.BatchNorm2d(4),
        "c1": nn.Conv2d(4, 4, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(4),
        "c2": nn.Conv2d(4, 4, 1),
        "bn2": nn.BatchNorm2d(4),
        "c3": nn.Conv2d(4, 4, 3, padding=1),
        "pool": nn.MaxPool2d(3, 1, 1),
        "relu": nn.ReLU(inplace=True),
        "head": nn.Linear(12, 5),
    }
    return _Model(forward, **parts), (torch.randn(3, 2, 6, 6), torch.randint(5, (3,)))


def two_sources() -> Made:
    """Two towers that start from inputs of their own."""

    def forward(s: Any, x: torch.Tensor, ids: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        u = F.gelu(s.a(x))
        v = s.b(s.table(ids)).mean(1)
        return F.binary_cross_entropy_with_logits((s.c(u) * F.normalize(v, dim=-1)).sum(-1), t)

    parts = {"a": nn.Linear(6, 12), "table": nn.Embedding(20, 8), "b": nn.Linear(8, 12), "c": nn.Linear(12, 12)}
    return _Model(forward, **parts), (torch.randn(4, 6), torch.randint(20, (4, 5)), torch.rand(4))


def tied() -> Made:
    """An embedding that is also the output projection."""
    table, head = nn.Embedding(16, 12), nn.Linear(12, 16, bias=False)
    head.weight = table.weight

    def forward(s: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        h = s.table(ids)
        h = h + torch.tanh(s.b(s.norm(h)))
        return F.cross_entropy(s.head(h).flatten(0, 1), labels.flatten())

    parts = {"table": table, "norm": nn.LayerNorm(12), "b": nn.Linear(12, 12), "head": head}
    return _Model(forward, **parts), (torch.randint(16, (3, 5)), torch.randint(16, (3, 5)))


def dropout_attention() -> Made:
    """Attention with a causal mask that is made in the model, and dropout in and after it."""

    def forward(s: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        h = s.drop(s.table(ids))
        q, k, v = s.qkv(s.norm(h)).chunk(3, -1)
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        a = torch.softmax((q @ k.transpose(1, 2) / 3.0).masked_fill(~mask, float("-inf")), -1)
        h = h + s.drop(s.out(s.drop(a) @ v))
        z = F.scaled_dot_product_attention(q, k, h, dropout_p=0.2)
        return F.cross_entropy(s.head(h + z).flatten(0, 1), labels.flatten())

    parts = {
        "table": nn.Embedding(16, 8),
        "norm": nn.LayerNorm(8),
        "qkv": nn.Linear(8, 24),
        "out": nn.Linear(8, 8),
        "head": nn.Linear(8, 16),
        "drop": nn.Dropout(0.25),
    }
    return _Model(forward, **parts), (torch.randint(16, (3, 5)), torch.randint(16, (3, 5)))


def int_and_bool_edges() -> Made:
    """Experts chosen by an index, and a mask, that cross stages; an output that gets no gradient."""

    def forward(s: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(s.a(x))
        chosen = s.gate(h).argmax(-1)
        positive = h > 0
        e = torch.stack([s.e0(h), s.e1(h), s.e2(h)], 1)
        y = e.gather(1, chosen[:, None, None].expand(-1, 1, 12)).squeeze(1)
        y = torch.where(positive, y, h) + F.one_hot(chosen, 12).to(h.dtype)
        return F.mse_loss(s.d(y), t)

    parts = {n: nn.Linear(12, 12) for n in ("e0", "e1", "e2")}
    parts |= {"a": nn.Linear(6, 12), "gate": nn.Linear(12, 3), "d": nn.Linear(12, 2)}
    return _Model(forward, **parts), (torch.randn(5, 6), torch.randn(5, 2))


def recurrent() -> Made:
    """An LSTM encoder and decoder: tuples, shared parameters, dropout between layers."""

    def forward(s: Any, x: torch.Tensor, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        encoded, state = s.encoder(x)
        decoded, _ = s.decoder(y, state)
        weights = torch.softmax(decoded @ encoded.transpose(1, 2), -1)
        return F.mse_loss(s.head(torch.cat([decoded, weights @ encoded], -1)), t)

    parts = {
        "encoder": nn.LSTM(5, 8, 2, batch_first=True, dropout=0.2),
        "decoder": nn.LSTM(5, 8, 2, batch_first=True, dropout=0.2),
        "head": nn.Linear(16, 3),
    }
    return _Model(forward, **parts), (torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.randn(3, 4, 3))


def u_shape() -> Made:
    """An encoder-decoder with skip connections over all stages, group norm and batch norm without statistics."""

    def forward(s: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        d0 = F.relu(s.n0(s.c0(x)))
        d1 = F.silu(s.n1(s.c1(F.max_pool2d(d0, 2))), inplace=True)
        d2 = F.leaky_relu(s.c2(F.avg_pool2d(d1, 2)), 0.1, inplace=True)
        u1 = F.relu(s.c3(torch.cat([F.interpolate(d2, scale_factor=2), d1], 1)))
        u0 = s.c4(torch.cat([F.interpolate(u1, scale_factor=2), d0], 1))
        return F.l1_loss(u0, t)

    parts: dict[str, nn.Module] = {
        "c0": nn.Conv2d(1, 4, 3, padding=1),
        "n0": nn.GroupNorm(2, 4),
        "c1": nn.Conv2d(4, 4, 3, padding=1),
        "n1": nn.BatchNorm2d(4, track_running_stats=False),
        "c2": nn.Conv2d(4, 4, 1),
        "c3": nn.Conv2d(8, 4, 3, padding=1),
        "c4": nn.Conv2d(8, 1, 1),
    }
    return _Model(forward, **parts), (torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8))


def no_grad_teacher() -> Made:
    """A frozen branch without gradients, and a parameter that is not trained."""

    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(s.a(x))
        with torch.no_grad():
            target = torch.tanh(s.teacher(h))
        return F.mse_loss(s.c(F.silu(s.b(h))) + s.frozen(h), target)

    frozen = nn.Linear(12, 4)
    frozen.requires_grad_(False)
    parts = {"a": nn.Linear(6, 12), "teacher": nn.Linear(12, 4), "b": nn.Linear(12, 12), "c": nn.Linear(12, 4)}
    return _Model(forward, **parts, frozen=frozen), (torch.randn(4, 6),)


def blocks() -> Made:
    """Repeated blocks with batch norm, in-place ReLU and dropout; what the first makes skips to the end."""

    def block() -> nn.Sequential:
        parts = (nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(24, 12))
        return nn.Sequential(*parts, nn.Tanh())

    def forward(s: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = s.enter(x)
        made = []
        for layer in s.layers:
            h = layer(h)
            made.append(h)
        return F.mse_loss(s.leave(torch.relu(h) * made[0]), t)

    layers = nn.ModuleList([block() for _ in range(4)])
    parts = {"enter": nn.Linear(6, 12), "layers": layers, "leave": nn.Linear(12, 2)}
    return _Model(forward, **parts), (torch.randn(8, 6), torch.randn(8, 2))


ALL = {
    f.__name__: f
    for f in (
        chain,
        skip_fan_out,
        branches,
        two_sources,
        tied,
        dropout_attention,
        int_and_bool_edges,
        recurrent,
        u_shape,
        no_grad_teacher,
        blocks,
    )
}
