"""Records of ranks become one trace."""

from __future__ import annotations

import pytest

from drlpp.plan import Action
from drlpp.runtime.recording import Recorder, merge


def test_merge_puts_ranks_on_one_clock() -> None:
    first, second, idle = Recorder(0), Recorder(2, offset_s=100.0), Recorder(None)
    first.begin(110.0)
    first.action(Action(0, "F", 1), 111.0, 112.0)
    first.optimizer(114.0, 116.0)
    second.begin(10.5)
    second.action(Action(1, "B", 1), 12.0, 14.0)
    idle.begin(111.0)
    idle.action(Action(0, "F", 0), 0.0, 1.0)
    idle.optimizer(0.0, 1.0)
    trace = merge([first, second, idle], num_devices=3, time_scale=2.0)
    shown = [(e.device, e.kind, e.stage, e.microbatch, e.start_s, e.end_s) for e in trace.events]
    assert shown == [(0, "F", 0, 1, 0.5, 1.0), (2, "B", 1, 1, 1.0, 2.0), (0, "optimizer", -1, -1, 2.0, 3.0)]
    assert (trace.source, trace.num_devices) == ("measured", 3)
    assert trace.iteration_time_s == pytest.approx(3.0)


def test_a_new_step_forgets_the_last() -> None:
    recorder = Recorder(0)
    recorder.begin(0.0)
    recorder.optimizer(0.0, 1.0)
    recorder.begin(5.0)
    assert merge([recorder], 1).events == ()
