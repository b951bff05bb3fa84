"""Recording what a rank did when, and merging the records of all ranks into one measured `Trace`.

Left out: the times at which transfers were under way in a real run (torch.distributed does not tell).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from drlpp.plan import Action, Trace, TraceEvent


class Recorder:
    """The events of one rank in one step.

    Args:
        device: id; None for a rank that runs nothing.
        offset_s: to add to this rank's clock to get the common one.
    """

    def __init__(self, device: int | None, offset_s: float = 0.0) -> None:
        self.device = device
        self.begin_s = 0.0
        self.events: list[TraceEvent] = []
        self._offset_s = offset_s

    def begin(self, at_s: float) -> None:
        """Starts anew with a step that begins at `at_s` on this rank's clock."""
        self.begin_s = at_s + self._offset_s
        self.events.clear()

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
    events = sorted(
        (
            dataclasses.replace(e, start_s=(e.start_s - zero) / time_scale, end_s=(e.end_s - zero) / time_scale)
            for r in recorders
            for e in r.events
        ),
        key=lambda e: (e.start_s, e.device, e.stream),
    )
    return Trace(
        source="measured",
        num_devices=num_devices,
        events=tuple(events),
        iteration_time_s=max((e.end_s for e in events), default=0.0),
    )
