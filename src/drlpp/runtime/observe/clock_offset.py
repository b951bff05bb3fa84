"""One clock for all ranks: the difference of each rank's `time.perf_counter` to that of rank 0."""

from __future__ import annotations

import socket
import time

import torch
import torch.distributed as dist

_ROUNDS = 8


def clock_offset_s(same_clock_on_a_host: bool = True) -> float:
    """Seconds to add to this rank's clock to get rank 0's. Called on every rank.

    Ranks on one host share the clock. Others ask rank 0 a few times; the answer that took least is the most exact one
    (Cristian, Distributed Computing 1989).

    Args:
        same_clock_on_a_host: off, to measure also where nothing needs to be.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    hosts: list[str] = [""] * size
    dist.all_gather_object(hosts, socket.gethostname())
    offset = 0.0
    for other in range(1, size):
        if same_clock_on_a_host and hosts[other] == hosts[0]:
            continue
        if rank == other:
            offset = _ask()
        elif rank == 0:
            _answer(other)
    return offset


def _device() -> torch.device:
    return torch.device("cuda") if "nccl" in dist.get_backend() else torch.device("cpu")


def _ask() -> float:
    best = float("inf"), 0.0
    message = torch.zeros(1, dtype=torch.float64, device=_device())
    for _ in range(_ROUNDS):
        asked = time.perf_counter()
        dist.send(message, 0)
        dist.recv(message, 0)
        theirs = message.item()
        answered = time.perf_counter()
        best = min(best, (answered - asked, theirs - (asked + answered) / 2))
    return best[1]


def _answer(other: int) -> None:
    message = torch.zeros(1, dtype=torch.float64, device=_device())
    for _ in range(_ROUNDS):
        dist.recv(message, other)
        message.fill_(time.perf_counter())
        dist.send(message, other)
