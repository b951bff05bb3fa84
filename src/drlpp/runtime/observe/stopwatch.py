"""Moments of a step. A CPU computes while the host waits, so the host's clock tells them; a GPU works behind the host,
and an event of its stream marks what it has done by then."""

from __future__ import annotations

import time
from typing import Protocol

import torch

Moment = float | torch.cuda.Event
"""Seconds of `time.perf_counter`, or an event of the current stream of a GPU."""


class Watch(Protocol):
    """Gives the present moment."""

    def now(self) -> Moment:
        """Where the computation is now."""
        ...


class Stopwatch:
    """Takes moments on one device, and says when they were.

    Args:
        device: that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._begin_s = 0.0
        self._begin: torch.cuda.Event | None = None

    def begin(self, at_s: float) -> None:
        """The device has nothing to do at `at_s`, which is now, on the host's clock."""
        self._begin_s = at_s
        self._begin = self._event() if self._on_gpu else None

    def now(self) -> Moment:
        """The present moment of the device."""
        return self._event() if self._on_gpu else time.perf_counter()

    def seconds(self, moment: Moment) -> float:
        """The moment on the host's clock. Waits for a GPU to get there."""
        if not isinstance(moment, torch.cuda.Event):
            return moment
        if self._begin is None:
            raise RuntimeError("an event of a GPU before the step began")
        moment.synchronize()
        return self._begin_s + float(self._begin.elapsed_time(moment)) / 1e3

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
