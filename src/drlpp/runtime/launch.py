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
from drlpp.runtime.training import RunOptions, RunReport
from drlpp.runtime.worker import error_file, init_process_group, read_report, train, write_job

_POLL_S = 0.05
_GRACE_S = 1.0
"""After the first rank fails, the others get this long to say why they fail, so that the cause can be told."""


def run(plan: Plan, options: RunOptions | None = None) -> RunReport:
    """Executes a plan.

    Args:
        plan: a legal plan.
        options: how; the defaults if None.

    Returns:
        What was measured; under torchrun on every rank.

    Raises:
        PlanError, ScheduleError, CaptureError, InputError: the plan cannot be run.
        ExecutionError: a rank died or failed; the message is one line that names it.
    """
    options = options or RunOptions()
    validate(plan)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _join(plan, options)
    folder = Path(tempfile.mkdtemp(prefix="drlpp-run-"))
    try:
        return _spawn(plan, options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _join(plan: Plan, options: RunOptions) -> RunReport:
    mine = not dist.is_initialized()
    if mine:
        init_process_group()
    size, needed = dist.get_world_size(), len(used_devices(plan))
    if size != needed:
        raise InputError(f"torchrun started {size} processes, the plan uses {needed} devices: start {needed}")
    try:
        return train(plan, options)
    finally:
        if mine:
            dist.destroy_process_group()


def _spawn(plan: Plan, options: RunOptions, folder: Path) -> RunReport:
    write_job(folder, plan, options)
    devices = used_devices(plan)
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
        _wait(processes)
        _raise_failure([p.poll() for p in processes], devices, folder)
        return read_report(folder)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _loopback() -> dict[str, str]:
    """Has gloo use the loopback interface: all ranks are on this machine, whatever its name resolves to."""
    names = [name for _, name in socket.if_nameindex()]
    return next(({"GLOO_SOCKET_IFNAME": n} for n in ("lo", "lo0") if n in names), {})


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    """Returns when all ranks have ended, or `_GRACE_S` after the first one that failed."""
    while any(p.poll() is None for p in processes):
        if any(p.poll() for p in processes):
            deadline = time.monotonic() + _GRACE_S
            while time.monotonic() < deadline and any(p.poll() is None for p in processes):
                time.sleep(_POLL_S)
            return
        time.sleep(_POLL_S)


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
