from __future__ import annotations

import dataclasses
import json

import pytest

from drlpp.errors import InputError
from drlpp.export import chrome_trace, read_chrome_trace
from drlpp.plan import Trace, TraceEvent
from drlpp.sim import simulate
from exported_models import plan_by_modules


def test_round_trip(branches, tmp_path):
    trace = simulate(plan_by_modules(branches, ["left", "right", "add"], [(0,), (1,), (2,), (3,)])).trace
    path = tmp_path / "trace.json"
    path.write_text(chrome_trace(trace))
    again = read_chrome_trace(path)
    assert dataclasses.replace(again, events=(), memory=()) == dataclasses.replace(trace, events=(), memory=())
    for got, want in zip(again.events, trace.events, strict=True):
        for field in dataclasses.fields(TraceEvent):
            a, b = getattr(got, field.name), getattr(want, field.name)
            assert a == (pytest.approx(b, abs=2e-9) if field.name.endswith("_s") else b)
    for got, want in zip(again.memory, trace.memory, strict=True):
        assert [m for _, m in got] == [m for _, m in want]


def test_threads_of_one_stream_are_one_stream_again(tmp_path):
    def send(start: float, end: float) -> TraceEvent:
        return TraceEvent(device=0, stream="link:0->1", kind="send", stage=0, microbatch=0, start_s=start, end_s=end)

    trace = Trace(source="measured", num_devices=2, events=(send(0.0, 2.0), send(1.0, 3.0)), iteration_time_s=3.0)
    path = tmp_path / "trace.json"
    path.write_text(chrome_trace(trace))
    assert read_chrome_trace(path) == trace


@pytest.mark.parametrize("content", [{}, [], {"traceEvents": [{"ph": "X"}], "otherData": {"source": "measured"}}])
def test_other_traces_are_refused(tmp_path, content):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is not a trace of DRL-PP"):
        read_chrome_trace(path)


def test_the_file_must_be_json(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text("[")
    with pytest.raises(InputError, match="not JSON"):
        read_chrome_trace(path)
