"""Models that look at the values of tensors in forward, to check them or to do something else with them.

They are not in a test's file, since pytest rewrites what is asserted there.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn


class Checked(nn.Module):
    """Linear layers around a piece of code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.code(self.first(x))).sum()  # type: ignore[no-any-return]

    def code(self, h: torch.Tensor) -> torch.Tensor:
        return h


class Asserts(Checked):
    def code(self, h: torch.Tensor) -> torch.Tensor:
        assert h.isfinite().all() and not h.isnan().any(), "not finite"  # noqa: PT018
        return h


class Raises(Checked):
    def code(self, h: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(h).all():
            raise ValueError("not finite")
        if h.isnan().any().item() or (h > 1e6).any():
            raise ValueError("too large")
        return h


class Warns(Checked):
    def code(self, h: torch.Tensor) -> torch.Tensor:
        if h.abs().max() > 1e6:
            warnings.warn("large", stacklevel=2)
        return h


class Branches(Checked):
    def code(self, h: torch.Tensor) -> torch.Tensor:
        if h.abs().max() > 1e6:
            h = h / 2
        return h


class Otherwise(Checked):
    def code(self, h: torch.Tensor) -> torch.Tensor:
        if h.abs().max() > 1e6:
            raise ValueError("large")
        else:
            h = h * 2
        return h


class EitherWay(Checked):
    """Which of the two holds is not told by the check."""

    def code(self, h: torch.Tensor) -> torch.Tensor:
        assert (h > 1e6).any() or (h < 1e6).all()
        return h


class Catches(Checked):
    def code(self, h: torch.Tensor) -> torch.Tensor:
        try:
            if h.abs().max() > 1e6:
                raise ValueError("large")
        except ValueError:
            return h / 2
        return h


class ComparesNumbers(Checked):
    def code(self, h: torch.Tensor) -> torch.Tensor:
        if h.abs().max().item() > 1e6:
            raise ValueError("large")
        return h
