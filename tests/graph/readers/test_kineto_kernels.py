"""Whose kernels are whose, in traces of GPUs written by hand in the forms of several releases."""

import json
import logging

import pytest

from drlpp.cluster.devices import CPU_PRESET
from drlpp.errors import GraphError
from drlpp.graph import REFERENCE
from drlpp.graph.readers import read_graph_text

NEW = {"cpu_op": "cpu_op", "cuda_runtime": "cuda_runtime", "kernel": "kernel", "Input Dims": "Input Dims"}
OLD = {"cpu_op": "Operator", "cuda_runtime": "Runtime", "kernel": "Kernel", "Input Dims": "Input dims"}


class Trace:
    """Two linear layers, forward and backward; every call launches kernels of its own duration (us)."""

    def __init__(self, names=NEW, external="correlation"):
        self.names, self.external, self.events, self.clock, self.launches = names, external, [], 0.0, 0
        for layer, shapes in enumerate([[[8, 4], [6, 4]], [[8, 6], [2, 6]]]):
            self.call("aten::linear", 1, layer, shapes, inner="aten::mm", kernels=[100.0 + layer])
        for layer in (1, 0):
            engine = "autograd::engine::evaluate_function: "
            self.call(f"{engine}MmBackward0", 2, layer, inner="MmBackward0", kernels=[200.0 + layer, 40.0])
            accumulate = "torch::autograd::AccumulateGrad"
            shape = [[6, 4], [2, 6]][layer]
            self.call(engine + accumulate, 2, None, inner=accumulate, shapes=[shape], kernels=[5.0])

    def event(self, category, name, thread, ts, dur, **args):
        args = {self.names.get(key, key): value for key, value in args.items()}
        category = self.names.get(category, category)
        self.events.append(
            {"ph": "X", "cat": category, "name": name, "pid": 1, "tid": thread, "ts": ts, "dur": dur, "args": args}
        )

    def call(self, name, thread, sequence, shapes=(), inner="", kernels=()):
        start, self.clock = self.clock, self.clock + 100
        number = len(self.events) + 1
        form = {"Input Dims": list(shapes), "Input type": ["float"] * len(shapes)}
        order = {} if sequence is None else {"Sequence number": sequence}
        self.event("cpu_op", name, thread, start, 90, **form, **order, **{"External id": number})
        self.event("cpu_op", inner, thread, start + 10, 70, **form, **order, **{"External id": number + 1})
        for k, dur in enumerate(kernels):
            self.launches += 1
            correlation = 7000 + self.launches
            ids = {"correlation": {"External id": correlation}, "operator": {"External id": number + 1}, "none": {}}
            at = start + 20 + 5 * k
            self.event("cuda_runtime", "cudaLaunchKernel", thread, at, 2, correlation=correlation)
            self.event("kernel", "k", 7, at + 5000, dur, correlation=correlation, **ids[self.external])

    def drop(self, category):
        self.events = [e for e in self.events if e["cat"] != category]
        return self

    def graph(self):
        data = {"traceEvents": self.events, "deviceProperties": [{"id": 0, "name": "Tesla V100-SXM2-32GB"}]}
        return read_graph_text(json.dumps(data), "x", "file")


def microseconds(graph):
    times = [op.times[REFERENCE] for op in graph.ops]
    return [(t.forward_s * 1e6, (t.input_grad_s + t.weight_grad_s) * 1e6) for t in times]


EXPECTED = [pytest.approx((100.0, 245.0)), pytest.approx((101.0, 246.0))]


@pytest.mark.parametrize(
    "trace",
    [
        Trace(external="correlation"),
        Trace(external="operator"),
        Trace(external="none"),
        Trace(OLD, "none"),
        Trace(OLD, "correlation"),
        Trace(external="operator").drop("cuda_runtime"),
    ],
    ids=["id repeats the correlation", "id of the operator", "no id", "old names", "old, id repeats", "no launches"],
)
def test_a_kernel_belongs_to_the_operator_around_its_launch(trace, caplog):
    g = trace.graph()
    assert microseconds(g) == EXPECTED
    assert [len(op.params) for op in g.ops] == [1, 1]
    assert (g.samples_per_microbatch, g.measured_on) == (8, "v100-sxm2-32gb")
    assert not caplog.records


def test_external_ids_that_repeat_correlations_are_not_taken_for_those_of_operators():
    trace = Trace()
    for event in trace.events:
        if event["cat"] in ("kernel", "cuda_runtime"):
            event["args"]["correlation"] -= 7000
            if "External id" in event["args"]:
                event["args"]["External id"] -= 7000  # now equal to ids of other operators
    assert microseconds(trace.graph()) == EXPECTED


def test_kernels_of_no_operator_are_named_with_their_share(caplog):
    trace = Trace()
    trace.event("cuda_runtime", "cudaLaunchKernel", 5, 50, 2, correlation=1)
    trace.event("kernel", "k", 7, 60, 693.0, correlation=1)
    with caplog.at_level(logging.WARNING):
        g = trace.graph()
    assert microseconds(g) == EXPECTED
    assert "1 of 9 kernels (50.0 % of their time) were launched outside of any operator" in caplog.text


def test_a_trace_whose_kernels_all_belong_to_nothing_is_refused():
    with pytest.raises(
        GraphError, match=r"file: none of the 8 kernels belongs to an operator: profile with CPU and GPU"
    ):
        Trace().drop("cuda_runtime").graph()


@pytest.mark.parametrize("duration", [-5.0, float("nan")])
def test_a_kernel_without_a_time_is_named(caplog, duration):
    trace = Trace()
    next(e for e in trace.events if e["cat"] == "kernel" and e["dur"] == 101.0)["dur"] = duration
    trace.event("cuda_runtime", "cudaLaunchKernel", 1, 130, 2, correlation=1)
    trace.event("kernel", "k", 7, 6000, 101.0, correlation=1)
    with caplog.at_level(logging.WARNING):
        assert microseconds(trace.graph()) == EXPECTED
    assert "1 of 9 kernels (0.0 % of their time) were launched outside of any operator, or have no time" in caplog.text


def test_a_trace_of_a_device_alone_is_refused():
    with pytest.raises(GraphError, match="file: the trace has no operators of the CPU: profile with CPU and GPU"):
        Trace().drop("cpu_op").graph()


def test_times_of_the_cpu_on_a_machine_with_a_gpu_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        assert Trace().drop("kernel").drop("cuda_runtime").graph().measured_on == CPU_PRESET
    assert "a machine with Tesla V100-SXM2-32GB, but no kernel is in the trace: times are those of calls" in caplog.text


@pytest.mark.parametrize(("launch", "work"), [("mtia_runtime", "mtia_ccp_events"), ("privateuse1_runtime", "hpu_op")])
def test_work_of_other_devices_is_not_taken_for_nothing(launch, work):
    trace = Trace()
    for event in trace.events:
        event["cat"] = {"cuda_runtime": launch, "kernel": work}.get(event["cat"], event["cat"])
    assert microseconds(trace.graph()) == EXPECTED


def without_kernels(threads):
    trace = Trace()
    gone = {e["args"]["correlation"] for e in trace.events if e["cat"] == "cuda_runtime" and e["tid"] in threads}
    trace.events = [e for e in trace.events if e["cat"] != "kernel" or e["args"]["correlation"] not in gone]
    return trace


@pytest.mark.parametrize(("thread", "which"), [(1, "forward"), (2, "backward")])
def test_a_pass_without_a_measured_time_is_refused(thread, which):
    with pytest.raises(GraphError, match=f"file: no time of the {which} pass is in the trace: .*synchronise"):
        without_kernels([thread]).graph()


def test_an_operator_with_flop_and_without_a_kernel_is_refused():
    trace = Trace()
    trace.events = [e for e in trace.events if e["cat"] != "kernel" or e["dur"] != 101.0]
    with pytest.raises(GraphError, match=r"1 operators with 33\.3% of the forward FLOP have no kernel in the trace"):
        trace.graph()


def test_times_of_hooks_and_collectives_are_not_those_of_the_model():
    trace = Trace()
    hook = next(e for e in trace.events if "AccumulateGrad" in e["name"] and e["name"].startswith("autograd"))
    at = hook["ts"] + 82
    trace.event("cpu_op", "c10d::allreduce_", 2, at, 6, **{"External id": 900})
    trace.event("cuda_runtime", "cudaLaunchKernel", 2, at + 1, 1, correlation=9)
    trace.event("kernel", "ncclDevKernel_AllReduce", 8, 9000, 5000.0, correlation=9)
    assert microseconds(trace.graph()) == EXPECTED
