"""Reads back what `chrome_trace` writes, so that a measured trace can lie beside a predicted one; no other traces."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from drlpp.errors import InputError
from drlpp.files import read_text
from drlpp.plan import Trace, TraceEvent

_LANE = re.compile(r" \(\d+\)$")
"""What a further thread of the same stream has after its name."""


def read_chrome_trace(path: Path) -> Trace:
    """The trace in a file of `drlpp run --trace` or `drlpp simulate --trace`; times to a nanosecond.

    Raises:
        InputError: the file cannot be read or was not written by DRL-PP.
    """
    try:
        content = json.loads(read_text(path, "trace"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON: {error.msg}") from error
    try:
        return _trace(content["traceEvents"], **content["otherData"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a trace of DRL-PP ({error}): write one with `drlpp run --trace` or `drlpp simulate --trace`"
        ) from error


def _trace(rows: list[dict[str, Any]], source: Literal["simulated", "measured"], iteration_time_s: float) -> Trace:
    streams: dict[tuple[int, int], str] = {}
    devices = 0
    memory: dict[int, list[tuple[float, float]]] = defaultdict(list)
    events = []
    for row in rows:
        if row["ph"] == "M":
            devices = max(devices, row["pid"] + 1)
            if row["name"] == "thread_name":
                streams[row["pid"], row["tid"]] = _LANE.sub("", row["args"]["name"])
        elif row["ph"] == "C":
            memory[row["pid"]].append((row["ts"] / 1e6, float(row["args"]["bytes"])))
        elif row["ph"] == "X":
            events.append(
                TraceEvent(
                    device=row["pid"],
                    stream=streams[row["pid"], row["tid"]],
                    kind=row["cat"],
                    stage=row["args"].get("stage", -1),
                    microbatch=row["args"].get("microbatch", -1),
                    start_s=row["ts"] / 1e6,
                    end_s=(row["ts"] + row["dur"]) / 1e6,
                    bytes=float(row["args"].get("bytes", 0)),
                )
            )
    return Trace(
        source=source,
        num_devices=devices,
        events=tuple(events),
        memory=tuple(tuple(memory[d]) for d in range(devices)) if memory else (),
        iteration_time_s=iteration_time_s,
    )
