"""Attention masks of transformers 4, which are made with `torch.vmap`: an export cannot trace that.

The functions that say who sees whom take indices, so they broadcast as well; transformers 5 does so by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

_MASKS, _VMAP, _MODE = "transformers.masking_utils", "_vmap_for_bhqkv", "TransformGetItemToIndex"


@contextmanager
def masks_by_broadcasting() -> Iterator[None]:
    """Context in which transformers 4 makes its masks without `torch.vmap`; does nothing without transformers 4."""
    masks = sys.modules.get(_MASKS)
    if masks is None or not (hasattr(masks, _VMAP) and hasattr(masks, _MODE)):
        yield
        return
    before = {name: getattr(masks, name) for name in (_VMAP, _MODE)}
    setattr(masks, _VMAP, _broadcast)
    setattr(masks, _MODE, nullcontext)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(masks, name, value)


def _broadcast(mask_function: Callable[..., torch.Tensor], bh_indices: bool = True) -> Callable[..., torch.Tensor]:
    """What transformers' function of this place returns: indices (batch, head, query, key) -> mask of their sizes."""

    def mask(*indices: torch.Tensor | None) -> torch.Tensor:
        given = [i for i in indices if i is not None]
        places = iter(range(len(given)))

        def along(index: torch.Tensor) -> torch.Tensor:
            place = next(places)
            return index[(None,) * place + (slice(None),) + (None,) * (len(given) - place - 1)]

        shaped: list[Any] = [None if i is None else along(i) for i in indices]
        return mask_function(*shaped).expand([len(i) for i in given])

    return mask
