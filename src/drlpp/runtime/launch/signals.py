"""What whoever started a run asks of it by a signal: SIGUSR1, a checkpoint now; SIGTERM, a checkpoint and the end.

Schedulers send SIGTERM some time before they kill (pre-emption, a host that is drained), and SIGUSR1 whenever they are
told to. One rank that gets the signal is enough: all agree after each step. Left out: a step that takes longer than the
scheduler waits.
"""

from __future__ import annotations

import signal

import torch
import torch.distributed as dist

from drlpp.runtime.transfers.waiting import wait_for_all

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
"""In the order of their weight: the later one includes the earlier."""


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
