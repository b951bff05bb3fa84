"""Nesting of recorded calls."""

from drlpp.graph.readers.kineto_events import nest, trace_events


def event(name, ts, dur, category="cpu_op", tid=1, pid=1):
    return {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur}


def parents(*events):
    calls = nest(trace_events({"traceEvents": list(events)}))
    return {c.name: calls[c.parent].name if c.parent >= 0 else "" for c in calls}


def test_a_call_lies_in_what_encloses_it_on_its_thread():
    found = parents(event("a", 0, 10), event("b", 1, 8), event("c", 2, 3), event("d", 6, 2), event("e", 1, 3, tid=2))
    assert found == {"a": "", "b": "a", "c": "b", "d": "b", "e": ""}


def test_threads_of_two_processes_are_two():
    assert parents(event("a", 0, 10, pid=1), event("b", 1, 5, pid=2)) == {"a": "", "b": ""}


def test_rounded_times_make_no_neighbour_a_child():
    assert parents(event("a", 0, 10.25), event("b", 10, 10)) == {"a": "", "b": ""}
    assert parents(event("a", 0, 10), event("b", 2, 8.25)) == {"a": "", "b": "a"}


def test_modules_around_a_call_are_its_path():
    events = [event(f"nn.Module: {n}", t, 10 - 2 * t, "python_function") for t, n in enumerate(["Net_0", "Linear_1"])]
    (call,) = nest(trace_events({"traceEvents": [*events, event("aten::mm", 3, 1)]}))
    assert call.module == "Net_0.Linear_1"


def test_what_is_no_complete_event_is_passed_over():
    others = [{"ph": "M", "name": "x"}, "text", {"ph": "X", "cat": "Trace", "name": "span", "ts": "x", "tid": "y"}]
    assert trace_events({"traceEvents": others}) == []
