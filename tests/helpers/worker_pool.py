"""Processes in one process group that run a function when asked."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TIMEOUT_S = 150.0
GROUP_TIMEOUT_S = 120


class WorkerPool:
    """`size` processes; `run` calls a module-level function on all of them with the same arguments.

    With NCCL the ranks share the GPUs that are there. NCCL refuses two ranks of one host on one GPU, so each claims a
    host of its own, and they talk over sockets.
    """

    def __init__(self, size: int, folder: Path, backend: str = "gloo") -> None:
        self.size = size
        self._backend = backend
        self._folder = folder
        self._starts = 0
        self._start()

    def _start(self) -> None:
        context = _template()
        self._starts += 1
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            store = str(self._folder / f"store-{self._starts}")
            process = context.Process(target=_work, args=(rank, self.size, store, theirs, self._backend), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """The results of all ranks. Fails if a rank raises or is not done in time; the pool is started anew then."""
        for pipe in self._pipes:
            pipe.send((function, args))
        results = []
        for rank, pipe in enumerate(self._pipes):
            done = pipe.poll(TIMEOUT_S)
            results.append(pipe.recv() if done else (None, f"rank {rank} was not done in {TIMEOUT_S} s"))
        if errors := [f"rank {r}: {e}" for r, (_, e) in enumerate(results) if e]:
            self.close()
            self._start()
            raise AssertionError(f"{function.__name__}{args}:\n" + "\n".join(errors))
        return [value for value, _ in results]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _template() -> multiprocessing.context.ForkServerContext:
    """The ranks are forked from a process that has imported what they need, so that this is done once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rank_imports"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # what is not found would be left out silently
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def _work(rank: int, size: int, store: str, pipe: Connection, backend: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_HOSTID", f"rank-{rank}")
    os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank % torch.cuda.device_count())
        torch.backends.cudnn.allow_tf32 = False
    dist.init_process_group(
        backend,
        store=dist.FileStore(store, size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=GROUP_TIMEOUT_S),
    )
    while True:
        function, args = pipe.recv()
        try:
            answer: tuple[Any, str] = (function(*args), "")
        except Exception:  # noqa: BLE001 (handed to the test)
            answer = (None, traceback.format_exc())
        for group in list(dist.distributed_c10d._world.pg_map):  # each has threads that poll
            if group is not dist.group.WORLD:
                dist.destroy_process_group(group)
        pipe.send(answer)
