"""Recording what a rank did when, and merging the records of all ranks into one measured `Trace`.

A transfer begins when both its send and its receive are posted, and ends when the receive does. With NCCL, which tells
only those who wait, it ends where its reader takes it, and so does an all-reduce.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from drlpp.plan import Action, Trace, TraceEvent
from drlpp.runtime.messages import Transfer


class Recorder:
    """The events of one rank in one step.

    Args:
        device: id; None for a rank that runs nothing.
        offset_s: to add to this rank's clock to get the common one.
        memory: gives the bytes in use; asked before each action, when all that it reads is there, and after it.

    Attributes:
        events: of this rank.
        memory: (seconds, bytes in use) before and after each action.
        sent: position in the order of transfers -> when this rank posted the send.
        arrivals: the same -> the transfer, from the posting of the receive on this rank.
    """

    def __init__(self, device: int | None, offset_s: float = 0.0, memory: Callable[[], float] | None = None) -> None:
        self.device = device
        self.begin_s = 0.0
        self.events: list[TraceEvent] = []
        self.memory: list[tuple[float, float]] = []
        self.sent: dict[int, float] = {}
        self.arrivals: dict[int, TraceEvent] = {}
        self._offset_s = offset_s
        self._bytes_in_use = memory

    def begin(self, at_s: float) -> None:
        """Starts anew with a step that begins at `at_s` on this rank's clock."""
        self.begin_s = at_s + self._offset_s
        for records in (self.events, self.memory, self.sent, self.arrivals):
            records.clear()

    def action(self, action: Action, begin_s: float, end_s: float) -> None:
        """An action of the schedule."""
        if self.device is not None:
            self.add(
                TraceEvent(
                    device=self.device,
                    stream="compute",
                    kind=action.kind,
                    stage=action.stage,
                    microbatch=action.microbatch,
                    start_s=begin_s,
                    end_s=end_s,
                )
            )
            self.look(end_s)

    def look(self, at_s: float) -> None:
        """Writes down the memory in use."""
        if self._bytes_in_use is not None:
            self.memory.append((at_s + self._offset_s, self._bytes_in_use()))

    def sending(self, transfer: Transfer, at_s: float) -> None:
        """A send is about to be posted."""
        self.sent[transfer.order] = at_s + self._offset_s

    def arrived(self, transfer: Transfer, num_bytes: int, posted_s: float, at_s: float) -> None:
        """A message has come whose receive was posted at `posted_s`."""
        self.arrivals[transfer.order] = TraceEvent(
            device=transfer.src,
            stream=f"link:{transfer.src}->{transfer.dst}",
            kind="send",
            stage=transfer.stage,
            microbatch=transfer.microbatch,
            start_s=posted_s + self._offset_s,
            end_s=at_s + self._offset_s,
            bytes=float(num_bytes),
        )

    def all_reduced(self, num_bytes: int, begin_s: float, end_s: float) -> None:
        """Gradients were summed."""
        if self.device is not None:
            self.add(
                TraceEvent(
                    device=self.device,
                    stream="all-reduce",
                    kind="all-reduce",
                    start_s=begin_s,
                    end_s=end_s,
                    bytes=float(num_bytes),
                )
            )

    def optimizer(self, begin_s: float, end_s: float) -> None:
        """The update of the parameters."""
        if self.device is not None:
            event = TraceEvent(device=self.device, stream="compute", kind="optimizer", start_s=begin_s, end_s=end_s)
            self.add(event)

    def add(self, event: TraceEvent) -> None:
        """An event with times of this rank's clock."""
        shifted = dataclasses.replace(event, start_s=event.start_s + self._offset_s, end_s=event.end_s + self._offset_s)
        self.events.append(shifted)


def merge(recorders: Sequence[Recorder], num_devices: int, time_scale: float = 1.0) -> Trace:
    """The trace of a step; times count from the first rank that begins and are divided by `time_scale`."""
    zero = min(r.begin_s for r in recorders)
    sent = {order: at_s for r in recorders for order, at_s in r.sent.items()}
    transfers = [
        dataclasses.replace(e, start_s=min(max(e.start_s, sent.get(order, e.start_s)), e.end_s))
        for r in recorders
        for order, e in r.arrivals.items()
    ]
    events = sorted(
        (
            dataclasses.replace(e, start_s=(e.start_s - zero) / time_scale, end_s=(e.end_s - zero) / time_scale)
            for e in [*transfers, *(e for r in recorders for e in r.events)]
        ),
        key=lambda e: (e.start_s, e.device, e.stream),
    )
    memory = {r.device: tuple(((t - zero) / time_scale, size) for t, size in r.memory) for r in recorders if r.memory}
    return Trace(
        source="measured",
        num_devices=num_devices,
        events=tuple(events),
        memory=tuple(memory.get(d, ()) for d in range(num_devices)) if memory else (),
        iteration_time_s=max((e.end_s for e in events), default=0.0),
    )
