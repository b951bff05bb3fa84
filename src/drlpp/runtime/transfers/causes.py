"""Why a rank failed, for the ranks that only see that it is gone.

A rank that fails in the middle of a step says why in the store of the process group, before its connections break. A
rank that waits for it looks there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from drlpp.errors import ExecutionError
from drlpp.torch_private import default_store

_KEY = "drlpp/failed"
_GRACE_S = 1.0
"""A connection may break a moment before its rank has said why."""
_MAX_LENGTH = 300


def tell_cause(error: BaseException) -> None:
    """Says why this rank fails, unless another rank said so before."""
    text = f"rank {dist.get_rank()} failed: {type(error).__name__}: {' '.join(str(error).split())[:_MAX_LENGTH]}"
    try:
        default_store().compare_set(_KEY, "", text)
    except RuntimeError:  # the store is gone, with the rank that kept it
        return


def with_cause(error: ExecutionError) -> ExecutionError:
    """The error, or one that names the cause, if another rank said it."""
    deadline = time.monotonic() + _GRACE_S
    while True:
        try:
            store = default_store()
            if store.check([_KEY]):
                return ExecutionError(store.get(_KEY).decode())
        except RuntimeError:
            return error
        if time.monotonic() > deadline:
            return error
        time.sleep(0.05)


@contextmanager
def explained() -> Iterator[None]:
    """Within it a failure of this rank is told to the others, and one that another rank caused is explained."""
    try:
        yield
    except ExecutionError as error:
        raise with_cause(error) from error
    except BaseException as error:
        tell_cause(error)
        raise
