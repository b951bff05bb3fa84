"""Waiting for other ranks, with a limit: a rank that does not answer hangs or has died."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from drlpp.errors import ExecutionError

FIRST_TIMEOUT_S = 600.0
"""How long other ranks are waited for where nobody knows how fast this machine is: in the first step."""
_PATIENCE = 20.0
_MIN_TIMEOUT_S = 8.0


def time_limit_s(longest_step_s: float) -> float:
    """How long ranks that do nothing but steps wait for each other: 20 times the longest step, at least 8 s."""
    return max(_MIN_TIMEOUT_S, _PATIENCE * longest_step_s)


def wait_for_all(work: dist.Work | None, what: str, timeout_s: float, device: torch.device) -> None:
    """Waits for a collective operation; `what` says for people what it is.

    NCCL has a watchdog of its own, with the time limit of the process group.

    Raises:
        ExecutionError: another rank does not take part in time, or is gone.
    """
    if work is None:
        raise RuntimeError("this process is not in the process group")
    try:
        if device.type == "cpu":
            work.wait(timedelta(seconds=timeout_s))
        else:
            work.wait()
    except RuntimeError as error:
        why = f"nothing came for {timeout_s:.0f} s" if "timed out" in str(error).lower() else "the connection broke"
        raise ExecutionError(f"stuck in {what}: {why}: a rank hangs or has died") from error
