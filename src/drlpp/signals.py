"""Signals that are caught while something runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager


@contextmanager
def caught(
    take: Callable[[signal.Signals], None], *, signals: Collection[signal.Signals], when: bool = True
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
