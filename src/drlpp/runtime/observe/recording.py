"""Recording what a rank did when, and merging the records of all ranks into one measured `Trace`.

A transfer begins when both its send and its receive are posted, and ends when the receive does. With NCCL, which tells
only those who wait, it ends where its reader takes it, and so does an all-reduce.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from drlpp.plan import Action, Trace, TraceEvent
from drlpp.runtime.observe.stopwatch import Moment, Stopwatch
from drlpp.runtime.transfers.planned import Transfer

_CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Record:
    """What one rank did in one step, in seconds of the common clock.

    Attributes:
        device: id; None for a rank that runs nothing.
        begin_s: of the step on this rank.
        events: of this rank.
        memory: (seconds, bytes in use) before and after each action.
        sent: position in the order of transfers -> when this rank posted the send.
        arrivals: the same -> the transfer, from the posting of the receive on this rank.
    """

    device: int | None
    begin_s: float
    events: tuple[TraceEvent, ...]
    memory: tuple[tuple[float, float], ...]
    sent: Mapping[int, float]
    arrivals: Mapping[int, TraceEvent]


_Noted = tuple[TraceEvent, Moment, Moment]
"""An event and the moments at which it began and ended."""


class Recorder:
    """Notes the events of one rank in one step.

    Args:
        device: id; None for a rank that runs nothing.
        offset_s: to add to this rank's clock to get the common one.
        memory: gives the bytes in use; asked before each action, when all that it reads is there, and after it.
        torch_device: where this rank computes.
        watch: gives the moments; None: one of `torch_device`.
    """

    def __init__(
        self,
        device: int | None,
        offset_s: float = 0.0,
        memory: Callable[[], float] | None = None,
        torch_device: torch.device = _CPU,
        watch: Stopwatch | None = None,
    ) -> None:
        self.device = device
        self._offset_s = offset_s
        self._bytes_in_use = memory
        self._watch = Stopwatch(torch_device) if watch is None else watch
        self._begin_s = 0.0
        self._events: list[_Noted] = []
        self._memory: list[tuple[Moment, float]] = []
        self._sent: dict[int, Moment] = {}
        self._arrivals: dict[int, _Noted] = {}

    def begin(self, at_s: float) -> None:
        """Starts anew with a step that begins now, at `at_s` on this rank's clock; a GPU has nothing to do then."""
        self._begin_s = at_s
        self._watch.begin(at_s)
        for noted in (self._events, self._memory, self._sent, self._arrivals):
            noted.clear()

    def now(self) -> Moment:
        """The present moment of the device that computes."""
        return self._watch.now()

    def action(self, action: Action, begin: Moment, end: Moment) -> None:
        """An action of the schedule."""
        if self.device is not None:
            event = TraceEvent(
                device=self.device,
                stream="compute",
                kind=action.kind,
                stage=action.stage,
                microbatch=action.microbatch,
                start_s=0.0,
                end_s=0.0,
            )
            self._events.append((event, begin, end))
            self.look(end)

    def look(self, at: Moment) -> None:
        """Writes down the memory in use."""
        if self._bytes_in_use is not None:
            self._memory.append((at, self._bytes_in_use()))

    def sending(self, transfer: Transfer, at: Moment) -> None:
        """A send is about to be posted."""
        self._sent[transfer.order] = at

    def arrived(self, transfer: Transfer, num_bytes: int, posted: Moment, at: Moment) -> None:
        """A message has come whose receive was posted at `posted`."""
        event = TraceEvent(
            device=transfer.src,
            stream=f"link:{transfer.src}->{transfer.dst}",
            kind="send",
            stage=transfer.stage,
            microbatch=transfer.microbatch,
            start_s=0.0,
            end_s=0.0,
            bytes=float(num_bytes),
        )
        self._arrivals[transfer.order] = event, posted, at

    def all_reduced(self, num_bytes: int, begin: Moment, end: Moment) -> None:
        """Gradients were summed."""
        if self.device is not None:
            event = TraceEvent(
                device=self.device,
                stream="all-reduce",
                kind="all-reduce",
                start_s=0.0,
                end_s=0.0,
                bytes=float(num_bytes),
            )
            self._events.append((event, begin, end))

    def optimizer(self, begin: Moment, end: Moment) -> None:
        """The update of the parameters."""
        if self.device is not None:
            event = TraceEvent(device=self.device, stream="compute", kind="optimizer", start_s=0.0, end_s=0.0)
            self._events.append((event, begin, end))

    def add(self, event: TraceEvent) -> None:
        """An event with times of this rank's clock."""
        self._events.append((event, event.start_s, event.end_s))

    def record(self) -> Record:
        """What was noted of the step. Waits for a GPU to have done it."""
        return Record(
            device=self.device,
            begin_s=self._begin_s + self._offset_s,
            events=tuple(self._timed(noted) for noted in self._events),
            memory=tuple((self._seconds(at), size) for at, size in self._memory),
            sent={order: self._seconds(at) for order, at in self._sent.items()},
            arrivals={order: self._timed(noted) for order, noted in self._arrivals.items()},
        )

    def _timed(self, noted: _Noted) -> TraceEvent:
        event, begin, end = noted
        return dataclasses.replace(event, start_s=self._seconds(begin), end_s=self._seconds(end))

    def _seconds(self, moment: Moment) -> float:
        return self._watch.seconds(moment) + self._offset_s


def merge(records: Sequence[Record], num_devices: int, time_scale: float = 1.0) -> Trace:
    """The trace of a step; times count from the first rank that begins and are divided by `time_scale`."""
    zero = min(r.begin_s for r in records)
    sent = {order: at_s for r in records for order, at_s in r.sent.items()}
    transfers = [
        dataclasses.replace(e, start_s=min(max(e.start_s, sent.get(order, e.start_s)), e.end_s))
        for r in records
        for order, e in r.arrivals.items()
    ]
    events = sorted(
        (
            dataclasses.replace(e, start_s=(e.start_s - zero) / time_scale, end_s=(e.end_s - zero) / time_scale)
            for e in [*transfers, *(e for r in records for e in r.events)]
        ),
        key=lambda e: (e.start_s, e.device, e.stream),
    )
    memory = {r.device: tuple(((t - zero) / time_scale, size) for t, size in r.memory) for r in records if r.memory}
    return Trace(
        source="measured",
        num_devices=num_devices,
        events=tuple(events),
        memory=tuple(memory.get(d, ()) for d in range(num_devices)) if memory else (),
        iteration_time_s=max((e.end_s for e in events), default=0.0),
    )
