"""Batches of the user for `drlpp run`: a function in a Python file that yields them.

Every rank runs the function and takes what its stages read, so that no rank has to send its data to another one. All
must get the same batches: the generators of torch, NumPy and Python begin with the seed of the run on every rank, and
`Pipeline.step` compares what the ranks were given. When the batches end, the function is called again: another epoch.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from drlpp.capture.sources.python_file import python_function
from drlpp.errors import InputError
from drlpp.runtime.stage.batches import Batch


def user_batches(spec: str, seed: int, skipped: int) -> Iterator[Batch]:
    """The batches of the steps, one after the other.

    Args:
        spec: ``path/to/file.py:function``. The function takes nothing and yields (or returns, as a list or data loader)
            batches as `Pipeline.step` takes them.
        seed: of random numbers that the function draws.
        skipped: steps that were done before.

    Raises:
        InputError: there is no such function, it fails, or it yields nothing.
    """
    path, _, name = spec.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise InputError(f"data {spec!r}: write path/to/file.py:function")
    function = python_function(spec, path, name)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    number = 0
    while True:
        before = number
        for batch in _called(spec, function):
            number += 1
            if number > skipped:
                yield batch
        if number == before:
            raise InputError(f"data {spec!r} yields no batches: yield at least one")


def _called(spec: str, function: Any) -> Iterator[Any]:
    try:
        batches = function()
        if not isinstance(batches, Iterable):
            raise InputError(f"data {spec!r} returns a {type(batches).__name__}: it must yield batches")
        yield from batches
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"data {spec!r} raises {type(error).__name__}: {reason}: it must yield batches") from error
