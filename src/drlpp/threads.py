"""One thread for PyTorch's operators: what small networks, and ranks that share a CPU, run fastest with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, operators of PyTorch use one thread; afterwards, as many as before."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)
