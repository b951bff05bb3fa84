"""Records of ranks become one trace."""

from __future__ import annotations

import pytest

from drlpp.plan import Action
from drlpp.runtime.observe.recording import Recorder, merge
from drlpp.runtime.transfers.planned import Slot, Transfer


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
    trace = merge([r.record() for r in (first, second, idle)], num_devices=3, time_scale=2.0)
    shown = [(e.device, e.kind, e.stage, e.microbatch, e.start_s, e.end_s) for e in trace.events]
    assert shown == [(0, "F", 0, 1, 0.5, 1.0), (2, "B", 1, 1, 1.0, 2.0), (0, "optimizer", -1, -1, 2.0, 3.0)]
    assert (trace.source, trace.num_devices) == ("measured", 3)
    assert trace.iteration_time_s == pytest.approx(3.0)


def test_a_new_step_forgets_the_last() -> None:
    recorder = Recorder(0)
    recorder.begin(0.0)
    recorder.optimizer(0.0, 1.0)
    recorder.begin(5.0)
    assert merge([recorder.record()], 1).events == ()


def transfer(order: int) -> Transfer:
    return Transfer(
        order=order,
        tag=0,
        slot=Slot(0, "value"),
        stage=3,
        microbatch=2,
        src=0,
        dst=1,
        produced_by=0,
        needed_by=0,
    )


def test_a_transfer_begins_when_both_ends_are_posted() -> None:
    sender, receiver = Recorder(0, offset_s=1.0), Recorder(1)
    sender.begin(-1.0)
    receiver.begin(0.0)
    sender.sending(transfer(0), 4.0)
    receiver.arrived(transfer(0), 100, 2.0, 6.0)
    sender.sending(transfer(1), 6.0)
    receiver.arrived(transfer(1), 100, 8.0, 9.0)
    events = merge([sender.record(), receiver.record()], num_devices=2).events
    assert [(e.start_s, e.end_s) for e in events] == [(5.0, 6.0), (8.0, 9.0)]
    assert {(e.device, e.stream, e.kind, e.stage, e.microbatch, e.bytes) for e in events} == {
        (0, "link:0->1", "send", 3, 2, 100.0)
    }


def test_all_reduces_and_memory() -> None:
    in_use = iter([10.0, 30.0])
    recorder, other = Recorder(1, offset_s=5.0, memory=lambda: next(in_use)), Recorder(0)
    recorder.begin(0.0)
    other.begin(5.0)
    recorder.action(Action(0, "F", 0), 0.5, 1.0)
    recorder.action(Action(0, "B", 0), 1.0, 3.0)
    recorder.all_reduced(64, 2.0, 4.0)
    trace = merge([recorder.record(), other.record()], num_devices=3)
    assert trace.memory == ((), ((1.0, 10.0), (3.0, 30.0)), ())
    assert [(e.device, e.stream, e.start_s, e.end_s, e.bytes) for e in trace.events if e.kind == "all-reduce"] == [
        (1, "all-reduce", 2.0, 4.0, 64.0)
    ]
