"""The data behind the timeline and memory pictures, small enough to travel inside the page.

Times become whole numbers of a millionth of the longest iteration, starts are differences to the event before, and
everything is compressed: 64 devices with 128 micro-batches need a few hundred kilobytes. Left out: events beyond
`MAX_EVENTS` (the latest go, and the page says so), and detail of memory curves below a pixel.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from drlpp.cluster import Cluster
from drlpp.plan import Trace, TraceEvent
from drlpp.sim import CriticalStep

MAX_EVENTS = 150_000
"""Events that the page keeps of all traces together."""
ALIKE = 0.01
"""Devices whose actions begin and end within this part of the step of one another do alike."""
_TICKS = 1_000_000
_MAX_MEMORY_POINTS = 400
KINDS = ("F", "B", "I", "W", "recompute", "send", "all-reduce", "optimizer")


def timeline_data(
    traces: Sequence[Trace], cluster: Cluster, critical_path: Sequence[CriticalStep] = ()
) -> dict[str, Any]:
    """Lanes and memory curves of one or two traces of the same plan, for ``report.js``.

    `alike` has the devices that do the same, in groups. Each lane is ``{device, source, compute, transfer}``; the last
    two are flat lists of (start difference, duration, kind, stage, micro-batch[, other device, kilobytes]). `critical`
    has (device, start, duration, whether it is in `transfer`) of the steps of the critical path of the simulated trace.
    """
    longest = max(t.iteration_time_s for t in traces)
    tick = longest / _TICKS or 1.0
    total = sum(len(t.events) for t in traces)
    lanes, memory = [], []
    for trace in traces:
        kept = sorted(trace.events, key=lambda e: e.start_s)[: MAX_EVENTS // len(traces)]
        by_device: dict[int, list[TraceEvent]] = defaultdict(list)
        for e in kept:
            by_device[e.device].append(e)
        for d in range(trace.num_devices):
            compute = [e for e in by_device[d] if e.stream == "compute"]
            transfer = [e for e in by_device[d] if e.stream != "compute"]
            lanes.append(
                {
                    "device": d,
                    "source": trace.source,
                    "compute": _flat(compute, tick, transfers=False),
                    "transfer": _flat(transfer, tick, transfers=True),
                }
            )
        for d, curve in enumerate(trace.memory):
            memory.append({"device": d, "source": trace.source, "points": _curve(curve, tick, longest)})
    lanes.sort(key=lambda lane: (lane["device"], lane["source"] == "measured"))
    memory.sort(key=lambda curve: (curve["device"], curve["source"] == "measured"))
    return {
        "tick_s": tick,
        "end": {t.source: round(t.iteration_time_s / tick) for t in traces},
        "kinds": KINDS,
        "devices": [
            {
                "type": d.type.name,
                "host": cluster.hosts[d.host].name,
                "capacity": d.type.memory_bytes,
            }
            for d in cluster.devices
        ],
        "alike": _alike(traces[0], cluster),
        "lanes": lanes,
        "memory": memory,
        "critical": [v for step in critical_path[:MAX_EVENTS] for v in _critical(step, tick)],
        "left_out": max(0, total - sum(min(len(t.events), MAX_EVENTS // len(traces)) for t in traces)),
    }


def _alike(trace: Trace, cluster: Cluster) -> list[list[int]]:
    """Devices of one type that do the same with the same stages at nearly the same time.

    That is, the n-th forward pass of a stage and so on, whatever the micro-batch, and whatever else comes in between.
    """
    near = trace.iteration_time_s * ALIKE or 1.0
    does: dict[int, list[TraceEvent]] = {d: [] for d in range(trace.num_devices)}
    for e in sorted(trace.events, key=lambda e: (e.kind, e.stage, e.start_s)):
        if e.stream == "compute":
            does[e.device].append(e)
    groups: dict[tuple[Any, ...], list[list[int]]] = defaultdict(list)
    for d, events in does.items():
        same = groups[cluster.devices[d].type.name, tuple((e.kind, e.stage) for e in events)]
        for group in same:
            pairs = zip(does[group[0]], events, strict=True)
            if all(abs(a.start_s - b.start_s) <= near and abs(a.end_s - b.end_s) <= near for a, b in pairs):
                group.append(d)
                break
        else:
            same.append([d])
    return sorted(group for some in groups.values() for group in some)


def _flat(events: Sequence[TraceEvent], tick: float, *, transfers: bool) -> list[int]:
    out: list[int] = []
    before = 0
    for e in events:
        start = round(e.start_s / tick)
        out += [start - before, round((e.end_s - e.start_s) / tick), KINDS.index(e.kind), e.stage, e.microbatch]
        if transfers:
            out += [e.receiver, round(e.bytes / 1e3)]
        before = start
    return out


def _critical(step: CriticalStep, tick: float) -> tuple[int, int, int, int]:
    device = int(step.where.removeprefix("device ").partition("->")[0])
    in_transfers = step.kind in ("transfer", "all-reduce")
    return device, round(step.start_s / tick), round((step.end_s - step.start_s) / tick), int(in_transfers)


def _curve(points: Sequence[tuple[float, float]], tick: float, end_s: float) -> list[int]:
    """Flat (ticks, bytes) of a step curve; of points that share a pixel only the highest stays, so peaks do too."""
    if len(points) <= _MAX_MEMORY_POINTS:
        return [v for t, m in points for v in (round(t / tick), round(m))]
    width = end_s / _MAX_MEMORY_POINTS or 1.0
    highest: dict[int, tuple[float, float]] = {}
    for t, m in points:
        bucket = int(t / width)
        if bucket not in highest or m > highest[bucket][1]:
            highest[bucket] = (t, m)
    return [v for t, m in highest.values() for v in (round(t / tick), round(m))]


def pack(data: Mapping[str, Any]) -> str:
    """JSON, deflated, in base64: what ``report.js`` unpacks."""
    return base64.b64encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)).decode()
