"""Signs of life of a rank, for the process that watches over it.

A thread of its own writes twice a second what the main thread does. Where the file stays as it is, the process is
stopped or hangs as a whole; where a rank waits for another one that computes, the two can be told apart.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from drlpp.files import write_atomically

INTERVAL_S = 0.5
HUNG_S = 8.0
"""A rank that gave no sign of life for this long hangs."""
START_S = 120.0
"""As long as it may take to the first one: PyTorch is loaded before it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where a rank is.

    Attributes:
        what: for people: an action of a step, or what is done between steps.
        waits: it waits for other ranks.
        for_s: seconds since this was first seen.
    """

    what: str
    waits: bool = False
    for_s: float = 0.0

    def __str__(self) -> str:
        return f"{'waits' if self.waits else 'is'} at {self.what} (for {self.for_s:.0f} s)"


class Heartbeat:
    """Writes to `path` where this rank is, from a thread that ends with the process."""

    def __init__(self, path: Path) -> None:
        self._where: Callable[[], Where] = lambda: Where(what="the building of the model")
        self._path = path
        self._news = threading.Event()

    def follow(self, where: Callable[[], Where]) -> None:
        """From now on asks `where` for the place; at once, the first time."""
        self._where = where
        self._news.set()

    def start(self) -> None:
        """Starts the thread."""
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        last, since = self._where(), time.monotonic()
        while True:
            now = self._where()
            if now != last:
                last, since = now, time.monotonic()
            seen = dataclasses.replace(now, for_s=time.monotonic() - since)
            write_atomically(self._path, json.dumps(dataclasses.asdict(seen)))
            self._news.wait(INTERVAL_S)
            self._news.clear()


class Watch:
    """The other side of a `Heartbeat`.

    Attributes:
        silent_s: seconds without a sign of life, as far as this process was running itself.
    """

    def __init__(self, path: Path) -> None:
        self.silent_s = 0.0
        self._path = path
        self._stamp = 0
        self._looked = time.monotonic()

    def look(self) -> None:
        """Looks for a new sign of life."""
        now = time.monotonic()
        elapsed, self._looked = min(now - self._looked, 1.0), now
        stamp = self._path.stat().st_mtime_ns if self._path.exists() else 0
        self.silent_s = self.silent_s + elapsed if stamp == self._stamp else 0.0
        self._stamp = stamp

    @property
    def hangs(self) -> bool:
        """The rank was silent for too long."""
        return self.silent_s > (HUNG_S if self._stamp else START_S)

    def where(self) -> Where:
        """Where the rank was when it last told."""
        if not self._path.exists():
            return Where(what="its start")
        return Where(**json.loads(self._path.read_text()))
