"""Accounting for the memory of tensors: what is alive, and the largest sum of it between two actions.

A dispatch mode sees every operator, in the forward and in the backward pass, and follows the storages of its results
until they are freed. Sampled before and after each action it gives what a plan's memory model speaks of (parameters,
gradients, optimizer state, saved activations, messages); temporary memory inside an action is left out there and here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from drlpp.torch_private import TorchDispatchMode, tree_leaves


class StorageTracker:
    """Follows tensor storages while it is started.

    Attributes:
        live_bytes: of the storages that are known and alive.
        peak_bytes: the largest `live_bytes` at a `sample`.
    """

    def __init__(self) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}
        self._mode: _Mode | None = None

    def start(self) -> None:
        """Starts to see what operators make."""
        self._mode = _Mode(self)
        self._mode.__enter__()

    def stop(self) -> None:
        """Stops; what was seen is followed until it is freed."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None

    def sample(self) -> int:
        """The memory in use; the largest so far is kept."""
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return self.live_bytes

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        """Follows tensors that were made before; one storage counts once."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.live_bytes += storage.nbytes()
                weakref.finalize(storage, self._freed, key).atexit = False

    def _freed(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)


class _Mode(TorchDispatchMode):
    def __init__(self, tracker: StorageTracker) -> None:
        super().__init__()
        self._tracker = tracker

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._tracker.add(t for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        return result
