from __future__ import annotations

import itertools
import json
from collections import defaultdict

import pytest

from drlpp.export.chrome_trace import chrome_trace
from drlpp.plan import Trace, TraceEvent
from drlpp.sim import simulate
from exported_models import plan_by_modules


@pytest.fixture(scope="module")
def trace(branches) -> Trace:
    plan = plan_by_modules(branches, ["left", "right", "add"], [(0,), (1,), (2,), (3,)])
    return simulate(plan).trace


@pytest.fixture(scope="module")
def events(trace) -> list[dict]:
    return json.loads(chrome_trace(trace))["traceEvents"]


def test_every_event_is_a_slice_in_microseconds(trace, events):
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) == len(trace.events)
    for s, e in zip(slices, trace.events, strict=True):
        assert s["pid"] == e.device
        assert s["ts"] == pytest.approx(e.start_s * 1e6, abs=1e-3)
        assert s["dur"] == pytest.approx((e.end_s - e.start_s) * 1e6, abs=1e-3)
    names = {s["name"] for s in slices}
    assert {"0F0", "3B7"} <= names
    assert {s["args"].get("bytes") for s in slices if s["cat"] == "send"} != {None}


def test_devices_and_streams_have_names(trace, events):
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {names[d, 0] for d in range(trace.num_devices)} == {"compute"}
    assert "link:0->1" in {name for (pid, _), name in names.items() if pid == 0}
    processes = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert processes == [f"device {d} (simulated)" for d in range(trace.num_devices)]


def test_slices_of_a_thread_nest(events):
    """Viewers drop a slice that begins inside another one and ends after it."""
    threads = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            threads[e["pid"], e["tid"]].append((e["ts"], e["ts"] + e["dur"]))
    for rows in threads.values():
        rows.sort()
        for (_, end), (start, _) in itertools.pairwise(rows):
            assert start >= end - 2e-3


def test_every_transfer_has_an_arrow_to_the_action_that_waits_for_it(trace, events):
    starts = {e["id"]: e for e in events if e["ph"] == "s"}
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    sends = [e for e in trace.events if e.kind == "send"]
    assert starts.keys() == ends.keys()
    assert len(starts) == len(sends)
    slices = {(e["pid"], e["tid"], e["ts"]): e for e in events if e["ph"] == "X" and e["dur"] > 0}
    for key, start in starts.items():
        send = slices[start["pid"], start["tid"], start["ts"]]
        waiting = slices[ends[key]["pid"], ends[key]["tid"], ends[key]["ts"]]
        assert waiting["name"][1:].removesuffix(str(waiting["args"]["microbatch"])) in ("F", "B")
        assert waiting["args"]["microbatch"] == send["args"]["microbatch"]
        assert waiting["ts"] >= send["ts"] + send["dur"] - 2e-3


def test_memory_is_a_counter(trace, events):
    counters = [e for e in events if e["ph"] == "C"]
    assert len(counters) == sum(len(curve) for curve in trace.memory)
    peak = max(e["args"]["bytes"] for e in counters if e["pid"] == 0)
    assert peak == round(max(m for _, m in trace.memory[0]))


def test_overlapping_transfers_get_threads_of_their_own():
    def send(start: float, end: float) -> TraceEvent:
        return TraceEvent(device=0, stream="link:0->1", kind="send", stage=0, microbatch=0, start_s=start, end_s=end)

    trace = Trace(
        source="measured",
        num_devices=2,
        events=(send(0.0, 2.0), send(1.0, 3.0), send(2.0, 4.0)),
        iteration_time_s=4.0,
    )
    events = json.loads(chrome_trace(trace))["traceEvents"]
    assert [e["tid"] for e in events if e["ph"] == "X"] == [1, 2, 1]
    assert not [e for e in events if e["ph"] == "s"]
    names = [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 0]
    assert names == ["compute", "link:0->1", "link:0->1 (2)"]


def test_other_streams_have_no_arrow():
    event = TraceEvent(device=0, stream="all-reduce", kind="all-reduce", stage=1, start_s=0.0, end_s=1.0, bytes=8.0)
    odd = TraceEvent(device=0, stream="network", kind="send", stage=1, microbatch=2, start_s=0.0, end_s=1.0)
    trace = Trace(source="measured", num_devices=1, events=(event, odd), iteration_time_s=1.0)
    events = json.loads(chrome_trace(trace))["traceEvents"]
    assert [e["name"] for e in events if e["ph"] == "X"] == ["all-reduce stage 1", "send stage 1 micro-batch 2"]
    assert not [e for e in events if e["ph"] in "sf"]
