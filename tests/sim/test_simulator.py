"""The reference simulator against results worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.errors import PlanError, ScheduleError
from drlpp.graph import Edge, Op, OpGraph, OpTimes
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Assignment, Provenance
from drlpp.plan.settings import of_columns
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator, simulate

FREE = Link(bandwidth=1e30)
WHO = Provenance(planner="test")


def one_host(num_devices: int, link: Link = FREE, memory: int = 10**12) -> Cluster:
    device = DeviceType(name="d", memory_bytes=memory)
    return Cluster("one", (device,), (Host(name="h", devices=("d",) * num_devices, link=link),))


def hosts(sizes: list[int], network: Link, link: Link = FREE) -> Cluster:
    device = DeviceType(name="d", memory_bytes=10**12)
    return Cluster(
        "many",
        (device,),
        tuple(Host(name=f"h{i}", devices=("d",) * n, link=link, network=network) for i, n in enumerate(sizes)),
    )


def simulated(graph, cluster, devices, num_microbatches, schedule="1f1b", stage_of_op=None, recompute=()):
    problem = PlanningProblem.build(graph, cluster, num_microbatches=num_microbatches, optimizer="sgd")
    labels = np.arange(graph.num_ops) if stage_of_op is None else np.array(stage_of_op)
    assignment = Assignment(labels, tuple(devices), of_columns({"recompute": recompute}))
    return simulate(Evaluator(problem).make_plan(assignment, WHO, (schedule,)))


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 2), (4, 8), (5, 3), (8, 32)])
def test_bubble_of_a_uniform_chain(schedule, p, m):
    result = simulated(chain_graph(p), one_host(p), [(i,) for i in range(p)], m, schedule)
    prediction = result.prediction
    assert prediction.iteration_time_s == pytest.approx((m + p - 1) * 3e-3)
    assert prediction.bubble_fraction == pytest.approx([(p - 1) / (m + p - 1)] * p)


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (4, 12), (8, 16)])
def test_zero_bubble_has_a_third_of_the_bubble_of_1f1b(p, m):
    devices = [(i,) for i in range(p)]
    work = m * 3e-3
    bubbles = [
        simulated(chain_graph(p), one_host(p), devices, m, schedule).prediction.iteration_time_s - work
        for schedule in ("1f1b", "zero-bubble")
    ]
    assert bubbles == pytest.approx([(p - 1) * 3e-3, (p - 1) * 1e-3])


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (5, 16)])
def test_zbv_has_no_bubble_between_a_devices_first_and_last_action(p, m):
    devices = [(min(s, 2 * p - 1 - s),) for s in range(2 * p)]
    result = simulated(chain_graph(2 * p), one_host(p), devices, m, "zbv")
    for d in range(p):
        events = [e for e in result.trace.events if e.device == d and e.stream == "compute"]
        assert max(e.end_s for e in events) - min(e.start_s for e in events) == pytest.approx(6e-3 * m)


@pytest.mark.parametrize(("p", "n", "m"), [(2, 2, 4), (4, 2, 8), (4, 3, 8)])
def test_interleaving_divides_the_bubble_by_the_stages_per_device(p, n, m):
    devices = [(s % p,) for s in range(p * n)]
    result = simulated(chain_graph(p * n), one_host(p), devices, m, "interleaved-1f1b")
    assert result.prediction.iteration_time_s == pytest.approx((m * n + p - 1) * 3e-3)


def test_transfer_time_and_latency():
    graph = chain_graph(2, tensor_bytes=1e6)
    result = simulated(graph, one_host(2, Link(bandwidth=1e9, latency_s=0.5)), [(0,), (1,)], 1)
    # F, 1 ms + 0.5 s, F and B, 1 ms + 0.5 s, B
    assert result.prediction.iteration_time_s == pytest.approx(1e-3 + 0.501 + 3e-3 + 0.501 + 2e-3)
    assert result.busy_s == pytest.approx({"0->1": 1e-3, "1->0": 1e-3})
    assert [(t.src, t.dst, t.gradient) for t in result.transfers] == [(0, 1, False), (1, 0, True)]


def fork_graph(fan_out: int, tensor_bytes: float = 1e6) -> OpGraph:
    """One op whose single output goes to `fan_out` others; forward 1 s, input gradient 1 s."""
    times = {"reference": OpTimes(1.0, 1.0)}
    ops = tuple(Op(name=f"o{i}", kind="x", times=times) for i in range(fan_out + 1))
    edges = tuple(Edge(src="o0", dst=f"o{i}", tensor="t") for i in range(1, fan_out + 1))
    return OpGraph(name="fork", ops=ops, edges=edges, tensor_bytes={"t": tensor_bytes})


def test_hosts_share_their_port():
    """Two receivers on other hosts: the sender's outward port serves one after the other; its inward port too."""
    result = simulated(fork_graph(2), hosts([1, 1, 1], Link(bandwidth=1e6)), [(0,), (1,), (2,)], 1)
    sent = [(t.start_s, t.end_s) for t in result.transfers]
    assert sent == [(1.0, 2.0), (2.0, 3.0), (4.0, 5.0), (5.0, 6.0)]
    assert result.prediction.iteration_time_s == pytest.approx(7.0)
    assert result.busy_s["host h0 out"] == pytest.approx(2.0)


def test_a_value_goes_once_to_each_device_and_one_gradient_returns():
    """Both consumers on device 1: one message there, one back after the second backward pass."""
    result = simulated(fork_graph(2), one_host(2, Link(bandwidth=1e6)), [(0,), (1,), (1,)], 1)
    assert len(result.transfers) == 2
    # F 1, transfer 1, F F B B 4, transfer 1, B 1
    assert result.prediction.iteration_time_s == pytest.approx(8.0)


def test_stages_on_one_device_send_nothing():
    result = simulated(fork_graph(2), one_host(1), [(0,), (0,), (0,)], 2)
    assert result.transfers == ()
    assert result.prediction.iteration_time_s == pytest.approx(2 * 6.0)


def test_edges_without_gradient_send_nothing_back():
    graph = fork_graph(1)
    graph = dataclasses.replace(graph, edges=(dataclasses.replace(graph.edges[0], requires_grad=False),))
    result = simulated(graph, one_host(2), [(0,), (1,)], 1)
    assert len(result.transfers) == 1
    assert result.prediction.iteration_time_s == pytest.approx(3.0)  # the two backward passes overlap in part


def test_transfer_times_of_the_graph_replace_the_links():
    graph = fork_graph(1)
    graph = dataclasses.replace(graph, edges=(dataclasses.replace(graph.edges[0], transfer_s=10.0),))
    result = simulated(graph, hosts([1, 1], Link(bandwidth=1.0)), [(0,), (1,)], 1)
    assert result.prediction.iteration_time_s == pytest.approx(1 + 10 + 2 + 10 + 1)


def test_backward_messages_flow_after_the_backward_pass():
    times = {"reference": OpTimes(1.0, 1.0)}
    ops = (Op(name="a", kind="x", times=times), Op(name="b", kind="x", times=times))
    edges = (
        Edge(src="a", dst="b", tensor="t", requires_grad=False, transfer_s=2.0),
        Edge(src="b", dst="a", tensor="g", requires_grad=False, phase="backward", transfer_s=3.0),
    )
    graph = OpGraph(name="explicit", ops=ops, edges=edges, tensor_bytes={"t": 0, "g": 0})
    result = simulated(graph, one_host(2), [(0,), (1,)], 1)
    assert result.prediction.iteration_time_s == pytest.approx(1 + 2 + 2 + 3 + 1)


def test_replicas_take_turns_and_reduce_gradients():
    graph = chain_graph(1, param_bytes=1e6)
    link = Link(bandwidth=1e9)
    result = simulated(graph, one_host(3, link), [(0, 1, 2)], 4)
    # device 0 runs micro-batches 0 and 3; ring over 3 devices: 2 * 2/3 * 1e6 / 1e9
    assert result.prediction.iteration_time_s == pytest.approx(2 * 3e-3 + 4 / 3 * 1e-3)
    assert {e.device for e in result.trace.events if e.kind == "all-reduce"} == {0, 1, 2}


def test_all_reduce_over_hosts_waits_for_the_ports():
    """Both stages are replicated over both hosts; stage 1 ends first, so stage 0 waits for its all-reduce."""
    graph = chain_graph(2, param_bytes=1e6)
    cluster = hosts([1, 1], Link(bandwidth=1e6))
    result = simulated(graph, cluster, [(0, 1), (0, 1)], 2)
    reduces = sorted({(e.start_s, e.end_s) for e in result.trace.events if e.kind == "all-reduce"})
    assert np.array(reduces) == pytest.approx(np.array([(4e-3, 1.004), (1.004, 2.004)]))
    assert result.prediction.iteration_time_s == pytest.approx(2.004)


def test_tied_parameters_are_reduced_over_all_devices_once():
    graph = chain_graph(3)
    ops = tuple(dataclasses.replace(op, params=("w",)) if op.name != "op1" else op for op in graph.ops)
    graph = dataclasses.replace(graph, ops=ops, param_bytes={"w": 1e6})
    result = simulated(graph, one_host(3, Link(bandwidth=1e9)), [(0,), (1,), (2,)], 1)
    reduces = [(e.device, e.bytes) for e in result.trace.events if e.kind == "all-reduce"]
    assert sorted(reduces) == [(0, 1e6), (2, 1e6)]
    same = simulated(graph, one_host(2), [(0,), (1,), (0,)], 1)
    assert not any(e.kind == "all-reduce" for e in same.trace.events)
    assert same.prediction.peak_memory_bytes == (2e6, 0.0)  # one copy and its gradient


def test_optimizer_step_ends_the_iteration():
    device = DeviceType(name="d", memory_bytes=10**9, memory_bandwidth=1e9, peak_flops=(("float32", 1e12),))
    device = dataclasses.replace(device, speed_is_given=True)
    cluster = Cluster("c", (device,), (Host(name="h", devices=("d",)),))
    result = simulated(chain_graph(1, param_bytes=1e6), cluster, [(0,)], 1)
    assert result.prediction.iteration_time_s == pytest.approx(3e-3 + 3 * 1e-3)
    assert result.trace.events[-1].kind == "optimizer"
    assert result.prediction.bubble_fraction == pytest.approx([0.0])


@pytest.mark.parametrize(("schedule", "in_flight"), [("gpipe", [8, 8, 8, 8]), ("1f1b", [4, 3, 2, 1])])
def test_memory_counts_micro_batches_in_flight(schedule, in_flight):
    graph = chain_graph(4)
    graph = dataclasses.replace(graph, tensor_bytes={f"t{i}": 1.0 if i == 3 else 0.0 for i in range(4)})
    peaks = []
    for s in range(4):  # only the op of stage s saves something
        sizes = {f"t{i}": float(i == s) for i in range(4)}
        ops = tuple(dataclasses.replace(op, saved=(f"t{i}",) if i == s else ()) for i, op in enumerate(graph.ops))
        edges = tuple(dataclasses.replace(e, tensor="none") for e in graph.edges)
        one = dataclasses.replace(graph, ops=ops, edges=edges, tensor_bytes={**sizes, "none": 0.0})
        result = simulated(one, one_host(4), [(i,) for i in range(4)], 8, schedule)
        peaks.append(result.prediction.peak_memory_bytes[s])
    assert peaks == in_flight


def test_recomputation_runs_the_forward_pass_again_and_holds_only_inputs():
    times = {"reference": OpTimes(1.0, 1.0, 1.0)}
    ops = (
        Op(name="a", kind="x", times=times),
        Op(name="b", kind="x", times=times, saved=("big",)),
    )
    edges = (Edge(src="a", dst="b", tensor="t"),)
    graph = OpGraph(name="g", ops=ops, edges=edges, tensor_bytes={"t": 10.0, "big": 100.0})
    plain = simulated(graph, one_host(2), [(0,), (1,)], 3, "gpipe")
    again = simulated(graph, one_host(2), [(0,), (1,)], 3, "gpipe", recompute=(False, True))
    assert plain.prediction.peak_memory_bytes == (60.0, 330.0)
    assert again.prediction.peak_memory_bytes == (60.0, 130.0)
    assert again.prediction.iteration_time_s == plain.prediction.iteration_time_s + 3.0
    assert [e.kind for e in again.trace.events].count("recompute") == 3
    assert [size for _, size in again.trace.memory[1]] == [0, 30, 130, 30, 130, 30, 130, 20]


def test_infeasible_devices_are_named_with_their_excess():
    graph = chain_graph(2, tensor_bytes=10.0)
    result = simulated(graph, one_host(2, memory=25), [(0,), (1,)], 4, "gpipe")
    assert not result.feasible
    assert result.infeasible == ((0, 45.0), (1, 55.0))


def test_memory_counts_what_is_received_ahead_and_what_was_returned():
    times = {"reference": OpTimes(1.0, 1.0, 1.0)}
    ops = (Op(name="a", kind="x", times=times), Op(name="b", kind="x", times=times))
    edges = (Edge(src="a", dst="b", tensor="t"),)
    graph = OpGraph(name="g", ops=ops, edges=edges, tensor_bytes={"t": 1.0})
    result = simulated(graph, one_host(2), [(0,), (1,)], 8, "1f1b")
    # 0F0 0F1 0B0 0F2 0B1 ...: two values held, the gradient that B0 reads, and the one for B1
    assert result.prediction.peak_memory_bytes[0] == 2 + 2
    # 1F0 1B0 1F1 1B1 ...: the value held, the next one, and two gradients on their way back
    assert result.prediction.peak_memory_bytes[1] == 1 + 1 + 2


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_message_to_two_stages_of_a_device_has_one_buffer(requires_grad):
    times = {"reference": OpTimes(1.0, 1.0, 1.0)}
    ops = tuple(Op(name=n, kind="x", times=times) for n in "abc")
    edges = tuple(Edge(src="a", dst=n, tensor="t", requires_grad=requires_grad) for n in "bc")
    graph = OpGraph(name="g", ops=ops, edges=edges, tensor_bytes={"t": 1.0})
    result = simulated(graph, one_host(2), [(0,), (1,), (1,)], 1, "gpipe")
    assert result.prediction.peak_memory_bytes == (1.0 + requires_grad, 2.0)


def test_gradients_of_parameters_come_with_the_first_backward_pass():
    graph = chain_graph(2, param_bytes=8.0)
    ops = tuple(dataclasses.replace(op, saved=("big",) if op.name == "op1" else ()) for op in graph.ops)
    graph = dataclasses.replace(graph, ops=ops, tensor_bytes={**graph.tensor_bytes, "big": 3.0})
    early = simulated(graph, one_host(1), [(0,), (0,)], 4, "gpipe")
    # two stages of parameters, then four activations; 1B0 lets go of 3 bytes and leaves 8, and so does 0B0
    assert [size for _, size in early.trace.memory[0]] == [16, 19, 22, 25, 28, 33, 41, 38, 35, 32]
    assert early.prediction.peak_memory_bytes == (41.0,)
    once = simulated(graph, one_host(1), [(0,), (0,)], 1, "gpipe")
    assert once.prediction.peak_memory_bytes == (32.0,)


@pytest.mark.parametrize(
    ("schedule", "recompute", "peak"),
    [
        ("gpipe", (), 4 * 3.0),  # stage 0 holds t for stage 1 as well
        ("gpipe", (True, False), 4 * 3.0),  # here only stage 1 holds it
        ("gpipe", (False, True), 4 * 1.0 + 2.0),
        ("zero-bubble", (), 3.0 + 4.0 + 1.0),  # between 0W0 and 1W0, with 1I1 (which counts t twice) and 0F2
    ],
)
def test_what_a_stage_of_the_same_device_holds_counts_once(schedule, recompute, peak):
    times = {"reference": OpTimes(1.0, 1.0, 1.0)}
    ops = (Op(name="a", kind="x", times=times), Op(name="b", kind="x", times=times, saved=("b1",)))
    edges = (Edge(src="a", dst="b", tensor="t"),)
    graph = OpGraph(name="g", ops=ops, edges=edges, tensor_bytes={"t": 1.0, "b1": 2.0})
    result = simulated(graph, one_host(1), [(0,), (0,)], 4, schedule, recompute=recompute)
    assert result.prediction.peak_memory_bytes == (peak,)


def test_trace_is_sorted_and_ends_with_the_iteration():
    result = simulated(chain_graph(3), one_host(3), [(0,), (1,), (2,)], 4)
    starts = [e.start_s for e in result.trace.events]
    assert starts == sorted(starts)
    assert max(e.end_s for e in result.trace.events) == result.trace.iteration_time_s


def test_illegal_plans_are_refused():
    plan = simulated(chain_graph(2), one_host(2), [(0,), (1,)], 2).plan
    backwards = {rank: actions[::-1] for rank, actions in plan.schedule.items()}
    with pytest.raises(ScheduleError, match="the order is F, then B"):
        simulate(dataclasses.replace(plan, schedule=backwards))
    moved = (dataclasses.replace(plan.stages[0], ops=("op1",)), dataclasses.replace(plan.stages[1], ops=("op0",)))
    with pytest.raises(PlanError, match="goes from stage 1 back to stage 0"):
        simulate(dataclasses.replace(plan, stages=moved))
