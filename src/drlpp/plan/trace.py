"""The trace of one iteration, simulated or measured: the same type, so that fidelity is a comparison of two traces."""

from __future__ import annotations

import dataclasses
from typing import Literal

TraceKind = Literal["F", "B", "I", "W", "recompute", "send", "all-reduce", "optimizer"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TraceEvent:
    """Something that took time.

    Attributes:
        device: id of the device (rank) that computed or sent.
        stream: ``compute``, or ``link:SRC->DST`` for a transfer, or ``all-reduce``.
        kind: what it was.
        stage, microbatch: -1 where they do not apply.
        start_s, end_s: seconds since the iteration began.
        bytes: moved, for transfers.
    """

    device: int
    stream: str
    kind: TraceKind
    stage: int = -1
    microbatch: int = -1
    start_s: float
    end_s: float
    bytes: float = 0.0

    @property
    def receiver(self) -> int:
        """The device that a transfer goes to; -1 for everything else."""
        _, arrow, dst = self.stream.partition("->")
        return int(dst) if arrow and dst.isdigit() else -1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One iteration.

    Attributes:
        source: ``simulated`` or ``measured``.
        num_devices: devices of the cluster, idle ones included.
        events: in order of (start_s, device, stream).
        memory: per device, (time_s, bytes) whenever the memory in use changed.
        iteration_time_s: end of the last event.
    """

    source: Literal["simulated", "measured"]
    num_devices: int
    events: tuple[TraceEvent, ...]
    memory: tuple[tuple[tuple[float, float], ...], ...] = ()
    iteration_time_s: float
