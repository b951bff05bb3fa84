"""A trace as Chrome/Perfetto JSON: the same shape for simulated and measured iterations. Open it in ui.perfetto.dev.

One process per device, one thread per stream: complete events (``X``), names (``M``), an arrow from each transfer to
the action that waits for it (``s``, ``f``), memory as a counter (``C``); times in microseconds. Source: "Trace Event
Format", Google, 2016. Viewers cannot show events of one thread that overlap in part: these get a thread of their own.
"""

from __future__ import annotations

import bisect
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from drlpp.plan import Trace, TraceEvent

_FORWARD, _BACKWARD = ("F",), ("B", "I")
_ACTIONS = ("F", "B", "I", "W")
_PRECISION = 1e-9


def chrome_trace(trace: Trace) -> str:
    """The JSON text of a trace."""
    threads = _Threads(trace)
    events = list(threads.names())
    compute = _Compute(trace)
    flow = 0
    for event in trace.events:
        slice_ = {
            "name": _name(event),
            "cat": event.kind,
            "ph": "X",
            "pid": event.device,
            "tid": threads.of(event),
            "ts": _us(event.start_s),
            "dur": _us(event.end_s - event.start_s),
            "args": _arguments(event),
        }
        events.append(slice_)
        consumer = compute.consumer(event) if event.kind == "send" else None
        if consumer is not None:
            common = {"name": "transfer", "cat": "send", "id": flow}
            events.append({**common, "ph": "s", "pid": event.device, "tid": slice_["tid"], "ts": slice_["ts"]})
            place = {"pid": consumer.device, "tid": threads.of(consumer), "ts": _us(consumer.start_s)}
            events.append({**common, "ph": "f", "bp": "e", **place})
            flow += 1
    for device, curve in enumerate(trace.memory):
        for time_s, memory in curve:
            events.append(
                {"name": "memory", "ph": "C", "pid": device, "ts": _us(time_s), "args": {"bytes": round(memory)}}
            )
    content = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"source": trace.source, "iteration_time_s": trace.iteration_time_s},
    }
    return json.dumps(content, separators=(",", ":")) + "\n"


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _name(event: TraceEvent) -> str:
    if event.kind in _ACTIONS:
        return f"{event.stage}{event.kind}{event.microbatch}"
    parts: list[str] = [event.kind]
    if event.stage >= 0:
        parts.append(f"stage {event.stage}")
    if event.microbatch >= 0:
        parts.append(f"micro-batch {event.microbatch}")
    return " ".join(parts)


def _arguments(event: TraceEvent) -> dict[str, Any]:
    known = {"stage": event.stage, "microbatch": event.microbatch}
    out: dict[str, Any] = {k: v for k, v in known.items() if v >= 0}
    if event.bytes:
        out["bytes"] = round(event.bytes)
    return out


class _Threads:
    """Thread numbers: 0 for compute, then one per stream, and more for streams whose events overlap in part."""

    def __init__(self, trace: Trace) -> None:
        self._thread: dict[int, int] = {}
        self._names: dict[int, list[str]] = {d: ["compute"] for d in range(trace.num_devices)}
        self._source = trace.source
        free: dict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)  # (device, stream) -> (thread, end)
        for event in sorted(trace.events, key=lambda e: (e.start_s, -e.end_s)):
            names = self._names[event.device]
            lanes = free[event.device, event.stream]
            fits = (i for i, (_, end) in enumerate(lanes) if end <= event.start_s + _PRECISION)
            lane = next(fits, len(lanes))
            if lane == len(lanes):
                if event.stream == "compute" and lane == 0:
                    lanes.append((0, event.end_s))
                else:
                    names.append(event.stream if lane == 0 else f"{event.stream} ({lane + 1})")
                    lanes.append((len(names) - 1, event.end_s))
            lanes[lane] = (lanes[lane][0], event.end_s)
            self._thread[id(event)] = lanes[lane][0]

    def of(self, event: TraceEvent) -> int:
        return self._thread[id(event)]

    def names(self) -> Iterator[dict[str, Any]]:
        for device, streams in self._names.items():
            yield _metadata("process_name", device, 0, {"name": f"device {device} ({self._source})"})
            yield _metadata("process_sort_index", device, 0, {"sort_index": device})
            for thread, stream in enumerate(streams):
                yield _metadata("thread_name", device, thread, {"name": stream})
                yield _metadata("thread_sort_index", device, thread, {"sort_index": thread})


def _metadata(name: str, pid: int, tid: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": pid, "tid": tid, "args": arguments}


class _Compute:
    """Finds the action that waits for a transfer."""

    def __init__(self, trace: Trace) -> None:
        self._by: dict[tuple[int, int], list[TraceEvent]] = defaultdict(list)  # (device, micro-batch), by start
        for event in sorted(trace.events, key=lambda e: e.start_s):
            if event.kind in _ACTIONS:
                self._by[event.device, event.microbatch].append(event)

    def consumer(self, send: TraceEvent) -> TraceEvent | None:
        """The first action of the same phase on the receiver, of a later stage (earlier, if backward)."""
        if send.receiver < 0:
            return None
        before = [
            e
            for e in self._by[send.device, send.microbatch]
            if e.stage == send.stage and e.kind != "W" and e.end_s <= send.start_s + _PRECISION
        ]
        forward = bool(before) and before[-1].kind == "F"
        there = self._by[send.receiver, send.microbatch]
        first = bisect.bisect_left(there, send.end_s - _PRECISION, key=lambda e: e.start_s)
        for event in there[first:]:
            later = event.stage > send.stage
            if event.kind in (_FORWARD if forward else _BACKWARD) and event.stage != send.stage and later == forward:
                return event
        return None
