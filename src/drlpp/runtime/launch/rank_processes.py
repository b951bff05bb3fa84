"""The processes of a run on this machine: starts them, watches over them, and says what went wrong.

A rank that ends in any other way than it should is seen at once. One that is stopped or hangs as a whole is seen when
it gives no sign of life (`heartbeat`). One whose main thread hangs is noticed by the ranks that wait for it, since
their waits have a time limit: it is the one that does not wait itself.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from drlpp import errors
from drlpp.errors import DrlppError, ExecutionError, StoppedError
from drlpp.runtime.launch.worker import beat_file, error_file, progress_file
from drlpp.runtime.observe.heartbeat import Watch
from drlpp.signals import caught

_POLL_S = 0.05
_GRACE_S = 1.0
"""After the first rank fails, the others get this long to say why they fail, so that the cause can be told."""
_NAMED = 4
"""Ranks whose place is told."""
_ECHOES = ("ExecutionError", "DistNetworkError", "DistStoreError")
_ECHOING = re.compile(r"connection (closed|reset|refused)|broken pipe|socket|not connected", re.IGNORECASE)
"""What a rank says, of its own or by torch, when another one is gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a run ended early.

    Attributes:
        error: what to raise, one line.
        lost: devices (ids of the plan's cluster) whose processes died or hang; empty if it is nobody's fault.
        restartable: starting again may help; not so where the input is at fault.
    """

    error: DrlppError
    lost: tuple[int, ...]
    restartable: bool = True


class Ranks:
    """One process per device.

    Args:
        devices: device of each rank.
        folder: holds the job (`drlpp.runtime.launch.worker`).
        say: called with the lines that rank 0 says.
    """

    def __init__(self, devices: tuple[int, ...], folder: Path, say: Callable[[str], None]) -> None:
        self._devices = devices
        self._folder = folder
        self._progress = _Lines(progress_file(folder), say)
        self._watches = [Watch(beat_file(folder, rank)) for rank in range(len(devices))]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._asked_to_stop = False
        environment = {"OMP_NUM_THREADS": "1", **loopback(), **os.environ, "WORLD_SIZE": str(len(devices))}
        try:
            for rank in range(len(devices)):
                with (folder / f"log-{rank}.txt").open("wb") as log:
                    self._processes.append(
                        subprocess.Popen(
                            [sys.executable, "-m", "drlpp.runtime.launch", str(folder)],
                            stdin=subprocess.PIPE,
                            stdout=log,
                            stderr=log,
                            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        )
                    )
        except BaseException:
            self.stop()
            raise

    def wait(self) -> Failure | None:
        """Waits until all ranks have ended as they should (None), or one has not. Ctrl-C raises KeyboardInterrupt.

        It is looked at in turn: an exception at any place would be lost while an object is deleted, and could leave a
        lock of `subprocess` locked.
        """
        deadline = math.inf
        interrupts: list[signal.Signals] = []
        with caught(interrupts.append, signals=(signal.SIGINT,)):
            while any(p.poll() is None for p in self._processes) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
                if interrupts:
                    break
                self._look()
                if any(self._hangs(rank) for rank in range(len(self._processes))):
                    break
                if any(p.poll() for p in self._processes):
                    deadline = min(deadline, time.monotonic() + _GRACE_S)
        if interrupts:  # the ranks may have ended by it
            raise KeyboardInterrupt
        self._look()
        return self._failure()

    def signal(self, number: signal.Signals) -> None:
        """Passes a signal on to all processes; one that wishes for a checkpoint, if they are there."""
        stop = number == signal.SIGTERM
        self._asked_to_stop = self._asked_to_stop or stop
        for rank, process in enumerate(self._processes):
            if stop or beat_file(self._folder, rank).exists():
                process.send_signal(number)

    def stop(self) -> None:
        """Ends all processes."""
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _look(self) -> None:
        self._progress.look()
        for watch in self._watches:
            watch.look()

    def _hangs(self, rank: int) -> bool:
        return self._processes[rank].poll() is None and self._watches[rank].hangs

    def _failure(self) -> Failure | None:
        """The cause, as far as can be told: killed ranks first, then what the ranks said, then what they did not."""
        ranks = range(len(self._processes))
        status = [p.poll() for p in self._processes]
        if not any(s is None or s != 0 for s in status):
            return None
        if self._asked_to_stop and -signal.SIGTERM in status:
            return Failure(StoppedError("asked to stop (SIGTERM) before the first step"), (), restartable=False)
        if killed := [r for r in ranks if (status[r] or 0) < 0]:
            signals = ", ".join(sorted({str(-(status[r] or 0)) for r in killed}))
            return self._died(killed, f"{'was' if len(killed) == 1 else 'were'} killed by signal {signals}")
        if hanging := [r for r in ranks if self._hangs(r)]:
            watch = self._watches[hanging[0]]
            return self._died(hanging, f"hangs: silent for {watch.silent_s:.0f} s at {watch.where().what}")
        said = {r: file.read_text() for r in ranks if (file := error_file(self._folder, r)).exists()}
        refused = [error for text in said.values() if (error := _refusal(text)) is not None]
        if refused:
            return Failure(refused[0], (), restartable=False)
        if own := {r: text for r, text in said.items() if not is_echo(text)}:
            rank, text = next(iter(own.items()))
            return Failure(ExecutionError(f"{self._name(rank)} failed: {text}"), (self._devices[rank],))
        if silent := [r for r in ranks if status[r] and r not in said]:
            log = (self._folder / f"log-{silent[0]}.txt").read_text(errors="replace")
            error = ExecutionError(f"{self._name(silent[0])} ended with status {status[silent[0]]}: {last_words(log)}")
            return Failure(error, tuple(self._devices[r] for r in silent))
        busy = [r for r in ranks if status[r] is None and not self._watches[r].where().waits]
        if said and busy:
            return self._died(busy, f"hangs: it {self._watches[busy[0]].where()}")
        return Failure(
            ExecutionError(next(iter(said.values()), "ExecutionError: a rank failed").partition(": ")[2]), ()
        )

    def _died(self, ranks: list[int], how: str) -> Failure:
        others = [r for r in range(len(self._processes)) if r not in ranks]
        places = "; ".join(f"rank {r} {self._watches[r].where()}" for r in others[:_NAMED])
        names = " and ".join(self._name(r) for r in ranks)
        stopped = f"; the other ranks were stopped: {places}" if others else ""
        return Failure(ExecutionError(f"{names} {how}{stopped}"), tuple(self._devices[r] for r in ranks))

    def _name(self, rank: int) -> str:
        return f"rank {rank} (device {self._devices[rank]})"


def _refusal(text: str) -> DrlppError | None:
    """The error of drlpp that a rank wrote down, unless it is the failure of a run."""
    name, _, message = text.partition(": ")
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, DrlppError)) or kind is ExecutionError:
        return None
    return kind(message)


def last_words(log: str) -> str:
    """The last line of a rank's log; older releases of Gloo write into it whom they are connected to."""
    lines = [line for line in log.strip().splitlines() if not line.startswith("[Gloo]")]
    return lines[-1] if lines else "it left no message"


def is_echo(text: str) -> bool:
    """Whether a rank only says that another one is gone."""
    return text.startswith(_ECHOES) or _ECHOING.search(text) is not None


class _Lines:
    """Says the lines that are added to a file."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._done = 0

    def look(self) -> None:
        """Says what is new."""
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            for line in lines[self._done :]:
                self._say(line)
            self._done = len(lines)


def loopback() -> dict[str, str]:
    """Has gloo use the loopback interface: all ranks are on this machine, whatever its name resolves to."""
    names = [name for _, name in socket.if_nameindex()]
    return next(({"GLOO_SOCKET_IFNAME": n} for n in ("lo", "lo0") if n in names), {})
