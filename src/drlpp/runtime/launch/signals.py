"""What whoever started a run asks of it by a signal: SIGUSR1, a checkpoint now; SIGTERM, a checkpoint and the end.

Schedulers send SIGTERM some time before they kill (pre-emption, a host that is drained), and SIGUSR1 whenever they are
told to. One rank that gets the signal is enough: all agree after each step. Left out: a step that takes longer than the
scheduler waits.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from drlpp.runtime.transfers.waiting import wait_for_all

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
"""In the order of their weight: the later one includes the earlier."""


@contextmanager
def caught(
    take: Callable[[signal.Signals], None], *, signals: Collection[signal.Signals] = SIGNALS, when: bool = True
) -> Iterator[None]:
    """Within it the signals go to `take` in place of their usual effect.

    Args:
        take: called in the main thread with the signal.
        signals: which.
        when: False changes nothing, and neither does another thread than the main one, which gets no signals.
    """
    if not when or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda n, _frame: take(signal.Signals(n))) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Wishes:
    """What the ranks of a run were asked for since they agreed last.

    Args:
        checkpoints: the run keeps checkpoints; if not, no signal is caught.
        device: where this rank computes.
    """

    def __init__(self, *, checkpoints: bool, device: torch.device) -> None:
        self._checkpoints, self._device = checkpoints, device
        self._heaviest = 0

    def take(self, number: signal.Signals) -> None:
        """This rank got a signal."""
        self._heaviest = max(self._heaviest, 1 + SIGNALS.index(number))

    def agreed(self, timeout_s: float) -> signal.Signals | None:
        """The heaviest signal that any rank got since the last call. Called on every rank.

        Raises:
            ExecutionError: a rank does not answer.
        """
        if not self._checkpoints:
            return None
        heaviest = torch.tensor(self._heaviest, device=self._device)
        self._heaviest = 0
        work = dist.all_reduce(heaviest, op=dist.ReduceOp.MAX, async_op=True)
        wait_for_all(work, "the agreement on signals", timeout_s, self._device)
        found = int(heaviest.item())
        return SIGNALS[found - 1] if found else None
