"""Whose are the kernels of a Kineto trace?

A kernel, copy or fill on the device belongs to the innermost call on the CPU around the driver call that launched it:
the one with its correlation number. Only later releases also give the operator itself, as ``External id``; in between
that field repeated the correlation. It is believed where a trace has no launches.

Work that belongs to no call is not lost in silence: its share is named, and a trace in which no work belongs to a call
is refused.
"""

from __future__ import annotations

import bisect
import logging
import math
from collections import defaultdict
from collections.abc import Sequence

from drlpp.errors import GraphError
from drlpp.graph.readers.kineto_events import Call, TraceEvent

log = logging.getLogger(__name__)


def add_gpu_seconds(
    calls: Sequence[Call], work: Sequence[TraceEvent], launches: Sequence[TraceEvent], where: str
) -> None:
    """Sets `Call.seconds` to the durations of the work that the call, or one nested in it, launched.

    Args:
        calls: in order of their start, nested.
        work: kernels, copies and fills.
        launches: calls of the driver.

    Raises:
        GraphError: none of the work belongs to a call.
    """
    find = _Finder(calls, work, launches)
    total, lost, num_lost = 0.0, 0.0, 0
    for call in calls:
        call.seconds = 0.0
    for event in work:
        seconds = (event.end - event.start) / 1e6
        at = find.call(event)
        if not 0 <= seconds < math.inf:  # a clock that ran backwards: nothing is known of it
            at, seconds = -1, 0.0
        total += seconds
        if at < 0:
            lost, num_lost = lost + seconds, num_lost + 1
        else:
            calls[at].seconds += seconds
    for call in reversed(calls):
        if call.parent >= 0:
            calls[call.parent].seconds += call.seconds
    if num_lost == len(work):
        raise GraphError(
            f"{where}: none of the {len(work)} kernels belongs to an operator: profile with CPU and GPU activities, so "
            "that launches with correlation numbers (cuda_runtime) are in the trace"
        )
    if num_lost:
        share = lost / total if total else 0.0
        log.warning(
            "%s: %d of %d kernels (%.1f %% of their time) were launched outside of any operator, or have no time, and "
            "are left out",
            where,
            num_lost,
            len(work),
            100 * share,
        )


class _Finder:
    """Finds the call that a piece of work belongs to."""

    def __init__(self, calls: Sequence[Call], work: Sequence[TraceEvent], launches: Sequence[TraceEvent]) -> None:
        self._calls = calls
        self._launch = {e.correlation: e for e in launches if e.correlation is not None}
        self._on_thread: dict[tuple[str, str], list[int]] = defaultdict(list)
        for k, call in enumerate(calls):
            self._on_thread[call.place].append(k)
        self._starts = {place: [calls[k].start for k in found] for place, found in self._on_thread.items()}
        names_ops = any(e.external_id != e.correlation for e in work)
        self._by_id = {c.external_id: k for k, c in enumerate(calls) if c.external_id} if names_ops else {}

    def call(self, event: TraceEvent) -> int:
        """Position of the call, or -1."""
        launch = self._launch.get(event.correlation) if event.correlation is not None else None
        if launch is None:
            return self._by_id.get(event.external_id, -1)
        at = self._around(launch)
        return at if at >= 0 else self._by_id.get(event.external_id, -1)

    def _around(self, launch: TraceEvent) -> int:
        """The innermost call on the launch's thread in which it starts."""
        starts = self._starts.get(launch.thread)
        if not starts:
            return -1
        k = self._on_thread[launch.thread][bisect.bisect_right(starts, launch.start) - 1]
        if self._calls[k].start > launch.start:
            return -1
        while k >= 0 and self._calls[k].end < launch.start:
            k = self._calls[k].parent
        return k
