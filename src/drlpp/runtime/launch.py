"""`run`: executes a plan, with one process per device that it uses.

Called from an ordinary process it starts the ranks on this machine; called under ``torchrun`` (RANK and WORLD_SIZE are
set) it joins the ranks that are there, so the same line runs a plan across machines.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch.distributed as dist

from drlpp import errors
from drlpp.errors import DrlppError, ExecutionError, InputError
from drlpp.plan import Plan, validate
from drlpp.runtime.pipeline import used_devices
from drlpp.runtime.training import RunOptions, RunReport, Say
from drlpp.runtime.worker import error_file, init_process_group, progress_file, read_report, train, write_job

_POLL_S = 0.05
_GRACE_S = 1.0
"""After the first rank fails, the others get this long to say why they fail, so that the cause can be told."""


def _silent(line: str) -> None:
    """Says nothing."""


def run(
    plan: Plan,
    *,
    steps: int = 3,
    verify: bool = False,
    emulate: bool = False,
    seed: int = 0,
    learning_rate: float = 1e-3,
    track_memory: bool = False,
    time_scale: float | None = None,
    say: Say = _silent,
) -> RunReport | None:
    """Executes a plan.

    Args:
        plan: a legal plan.
        steps, verify, emulate, seed, learning_rate, track_memory, time_scale: see `RunOptions`.
        say: called with lines about what goes on.

    Returns:
        What was measured; None on the ranks of torchrun but the first.

    Raises:
        PlanError, ScheduleError, CaptureError, InputError: the plan cannot be run.
        ExecutionError: a rank died or failed; the message is one line that names it.
    """
    options = RunOptions(
        steps=steps,
        verify=verify,
        emulate=emulate,
        seed=seed,
        learning_rate=learning_rate,
        track_memory=track_memory,
        time_scale=time_scale,
    )
    validate(plan)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _join(plan, options, say)
    folder = Path(tempfile.mkdtemp(prefix="drlpp-run-"))
    try:
        return _spawn(plan, options, folder, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _join(plan: Plan, options: RunOptions, say: Say) -> RunReport | None:
    mine = not dist.is_initialized()
    if mine:
        init_process_group()
    try:
        size, needed = dist.get_world_size(), len(used_devices(plan))
        if size != needed:
            raise InputError(f"torchrun started {size} processes, the plan uses {needed} devices: start {needed}")
        report = train(plan, options, say)
        return report if dist.get_rank() == 0 else None
    finally:
        if mine:
            dist.destroy_process_group()


def _spawn(plan: Plan, options: RunOptions, folder: Path, say: Say) -> RunReport:
    write_job(folder, plan, options)
    devices = used_devices(plan)
    say(f"starting {len(devices)} {'processes' if len(devices) > 1 else 'process'} on this machine")
    environment = {"OMP_NUM_THREADS": "1", **_loopback(), **os.environ, "WORLD_SIZE": str(len(devices))}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(len(devices)):
            with (folder / f"log-{rank}.txt").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "drlpp.runtime.worker", str(folder)],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    )
                )
        _wait(processes, _Lines(progress_file(folder), say))
        _raise_failure([p.poll() for p in processes], devices, folder)
        return read_report(folder)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


class _Lines:
    """Says the lines that are added to a file."""

    def __init__(self, path: Path, say: Say) -> None:
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


def _loopback() -> dict[str, str]:
    """Has gloo use the loopback interface: all ranks are on this machine, whatever its name resolves to."""
    names = [name for _, name in socket.if_nameindex()]
    return next(({"GLOO_SOCKET_IFNAME": n} for n in ("lo", "lo0") if n in names), {})


def _wait(processes: list[subprocess.Popen[bytes]], progress: _Lines) -> None:
    """Returns when all ranks have ended, or `_GRACE_S` after the first one that failed."""
    while any(p.poll() is None for p in processes):
        progress.look()
        if any(p.poll() for p in processes):
            deadline = time.monotonic() + _GRACE_S
            while time.monotonic() < deadline and any(p.poll() is None for p in processes):
                time.sleep(_POLL_S)
            break
        time.sleep(_POLL_S)
    progress.look()


def _raise_failure(statuses: list[int | None], devices: tuple[int, ...], folder: Path) -> None:
    """Raises the error of the rank that failed first, as far as can be told."""
    said = {}
    for rank, status in enumerate(statuses):
        file = error_file(folder, rank)
        if file.exists():
            said[rank] = file.read_text()
        elif status is not None and status < 0:
            where = f"rank {rank} (device {devices[rank]})"
            raise ExecutionError(f"{where} was killed by signal {-status}; the other ranks were stopped")
    for rank, text in sorted(said.items(), key=lambda item: item[1].startswith("ExecutionError")):
        name, _, message = text.partition(": ")
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, DrlppError):
            raise kind(message)
        raise ExecutionError(f"rank {rank} (device {devices[rank]}) failed: {text}")
    for rank, status in enumerate(statuses):
        if status:
            log = (folder / f"log-{rank}.txt").read_text(errors="replace").strip().splitlines()
            last = log[-1] if log else "it left no message"
            raise ExecutionError(f"rank {rank} (device {devices[rank]}) ended with status {status}: {last}")
