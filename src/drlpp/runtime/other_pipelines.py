"""Several pipelines over one module (a generator and its critic, several losses): they share its parameters, or clash.

A pipeline that is built without a state dict trains the parameters of the user's module themselves. Another one over
the same module trains the same parameters, which is right as long as the same ranks hold them. Where it would train
copies, or other ranks hold them, each pipeline would go its own way.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from drlpp.errors import InputError


class Place(NamedTuple):
    """Where a parameter is.

    Attributes:
        ranks: that hold it.
        own: they hold the user's own.
        owner: the only rank that changes it (ZeRO-1); None: all do.
    """

    ranks: tuple[int, ...]
    own: bool
    owner: int | None


_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def check_shared(owner: object, parameters: Mapping[str, tuple[torch.Tensor, Place]]) -> None:
    """Notes where a pipeline has the parameters of a module.

    Args:
        owner: the pipeline; when it is gone, what was noted of it does not count.
        parameters: name -> the parameter of the user's module, and its place.

    Raises:
        InputError: another pipeline over the same module has one of them elsewhere.
    """
    for name, (parameter, place) in parameters.items():
        others = [(ref, seen) for ref, seen in _known.get(parameter, []) if ref() is not None]
        for _, seen in others:
            if seen != place or not place.own:
                where = f"on ranks {list(place.ranks)}, that one on ranks {list(seen.ranks)}"
                if seen.ranks == place.ranks:
                    changed = "with ZeRO-1, where another rank changes it"
                    where = "of a copy of its own on another device" if seen.owner == place.owner else changed
                raise InputError(
                    f"another pipeline trains parameter {name!r} of the same module: this one would train it {where}. "
                    "Give both plans the same devices for it, capture both losses as one, or build with a state_dict "
                    "to train copies"
                )
    for parameter, place in parameters.values():
        others = [(ref, seen) for ref, seen in _known.get(parameter, []) if ref() is not None]
        _known[parameter] = [*others, (weakref.ref(owner), place)]
