"""Attention masks whose making an export cannot trace.

transformers 4 makes them with `torch.vmap`. The functions that say who sees whom take indices, so they broadcast as
well; transformers 5 does so by itself. `nn.TransformerEncoder` and `nn.TransformerDecoder` look at the values of a
mask, to find out whether it is the causal one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from drlpp.capture.recording import replaced
from drlpp.torch_private import CAUSAL_MASK

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


@contextmanager
def masks_as_they_are() -> Iterator[None]:
    """Context in which `nn.TransformerEncoder` and `nn.TransformerDecoder` use a mask without a look at its values.

    What they learn from them is only which kernel may compute the same.
    """

    def is_causal(mask: torch.Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
        return is_causal is True

    with replaced(torch.nn.modules.transformer, CAUSAL_MASK, is_causal):
        yield


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
