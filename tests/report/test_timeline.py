from __future__ import annotations

import base64
import dataclasses
import json
import zlib

import pytest

from drlpp.plan import Trace, TraceEvent
from drlpp.report import timeline
from drlpp.report.timeline import KINDS, pack, timeline_data
from drlpp.sim import explain, simulate
from hand_plans import make_plan


def decode(flat: list[int], width: int, tick: float) -> list[tuple]:
    out, start = [], 0
    for i in range(0, len(flat), width):
        start += flat[i]
        duration, kind, *rest = flat[i + 1 : i + width]
        out.append((start * tick, (start + duration) * tick, KINDS[kind], *rest))
    return out


def test_lanes_hold_every_event_of_the_trace(simulation):
    trace = simulation.trace
    data = json.loads(zlib.decompress(base64.b64decode(pack(timeline_data([trace], simulation.plan.cluster)))))
    found = []
    for lane in data["lanes"]:
        for name, width in (("compute", 5), ("transfer", 7)):
            found += [(lane["device"], *row) for row in decode(lane[name], width, data["tick_s"])]
    expected = [(e.device, e.start_s, e.end_s, e.kind, e.stage, e.microbatch) for e in trace.events]
    assert len(found) == len(expected)
    tolerance = 2e-6 * trace.iteration_time_s
    for got, want in zip(sorted(f[:6] for f in found), sorted(expected), strict=True):
        assert got[0] == want[0]
        assert got[1:3] == pytest.approx(want[1:3], abs=tolerance)
        assert got[3:] == want[3:]


def test_transfers_name_their_receiver(simulation):
    data = timeline_data([simulation.trace], simulation.plan.cluster)
    receivers = {lane["device"]: set(lane["transfer"][5::7]) for lane in data["lanes"]}
    assert {1, 2} <= receivers[0]


def test_memory_curves_keep_their_peak(simulation, monkeypatch):
    monkeypatch.setattr(timeline, "_MAX_MEMORY_POINTS", 4)
    data = timeline_data([simulation.trace], simulation.plan.cluster)
    for curve, peak in zip(data["memory"], simulation.prediction.peak_memory_bytes, strict=True):
        assert max(curve["points"][1::2]) == round(peak)
        assert len(curve["points"]) <= 2 * 5


def test_measured_lanes_follow_the_predicted_ones(simulation):
    measured = dataclasses.replace(simulation.trace, source="measured")
    data = timeline_data([simulation.trace, measured], simulation.plan.cluster)
    order = [(lane["device"], lane["source"]) for lane in data["lanes"]]
    assert order[:4] == [(0, "simulated"), (0, "measured"), (1, "simulated"), (1, "measured")]
    assert set(data["end"]) == {"simulated", "measured"}


def test_too_many_events_leave_out_the_latest_and_say_so(simulation, monkeypatch):
    monkeypatch.setattr(timeline, "MAX_EVENTS", 10)
    data = timeline_data([simulation.trace], simulation.plan.cluster)
    assert data["left_out"] == len(simulation.trace.events) - 10


def test_a_trace_without_time_or_memory(plan):
    event = TraceEvent(device=0, stream="compute", kind="F", stage=0, microbatch=0, start_s=0.0, end_s=0.0)
    trace = Trace(source="measured", num_devices=plan.cluster.num_devices, events=(event,), iteration_time_s=0.0)
    data = timeline_data([trace], plan.cluster)
    assert data["lanes"][0]["compute"] == [0, 0, 0, 0, 0]
    assert data["memory"] == []


def test_the_critical_path_covers_the_step(simulation):
    path = explain(simulation).critical_path
    data = timeline_data([simulation.trace], simulation.plan.cluster, path)
    rows = [tuple(data["critical"][i : i + 4]) for i in range(0, len(data["critical"]), 4)]
    assert len(rows) == len(path)
    assert {device for device, *_ in rows} <= {0, 1, 2, 3, 4}
    assert rows[-1][1] + rows[-1][2] == pytest.approx(1_000_000, abs=2)


def test_devices_that_do_alike_are_one_lane(problem):
    parallel = make_plan(problem, [0] * 8, [(2, 3, 4, 5)], "t")
    trace = simulate(parallel).trace
    assert timeline_data([trace], problem.cluster)["alike"] == [[0, 1], [2, 3, 4, 5], [6, 7]]
    other = [dataclasses.replace(e, start_s=e.start_s / 2) if e.device == 3 else e for e in trace.events]
    trace = dataclasses.replace(trace, events=tuple(other))
    assert timeline_data([trace], problem.cluster)["alike"] == [[0, 1], [2, 4, 5], [3], [6, 7]]
