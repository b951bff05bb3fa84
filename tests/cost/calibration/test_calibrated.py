"""Calibrated costs as a graph and a cluster: unequal devices of a type part, equal ones stay together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.cluster.schema import cluster_to_dict
from drlpp.cost.calibration import calibrate, calibrated_plan, measurements
from drlpp.cost.op_times import op_times
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.sim import simulate
from plan_cases import make_plan
from wrong_costs import noisy_trace

GRAPH = chain_graph(8, forward_s=1e-3, tensor_bytes=1e6, param_bytes=1e6)
PLAN = make_plan(GRAPH, [0, 0, 1, 1, 2, 2, 3, 3], [(0,), (1,), (2,), (3,)], num_microbatches=8)


def slow_device(cluster: Cluster, device: int, slower: float) -> Cluster:
    """The cluster with one device of a type of its own."""
    old = cluster.device_types[0]
    slow = dataclasses.replace(old, name="slow", speed=old.speed / slower, speed_is_given=True)
    names = iter(["slow" if d.id == device else d.type.name for d in cluster.devices])
    hosts = tuple(dataclasses.replace(h, devices=tuple(next(names) for _ in h.devices)) for h in cluster.hosts)
    return Cluster(cluster.name, (old, slow), hosts)


def test_equal_devices_stay_of_one_type() -> None:
    rng = np.random.default_rng(0)
    found = calibrate([measurements(PLAN, [noisy_trace(rng, PLAN, PLAN.cluster, GRAPH, 0.2) for _ in range(3)])])
    made = calibrated_plan(PLAN, found)
    assert [t.name for t in made.cluster.device_types] == ["cpu"]
    assert op_times(made.graph, made.cluster).forward_s == pytest.approx(
        op_times(GRAPH, PLAN.cluster).forward_s, rel=0.03
    )


def test_a_slow_device_gets_a_type_of_its_own() -> None:
    rng, real = np.random.default_rng(0), slow_device(PLAN.cluster, 2, 1.6)
    found = calibrate([measurements(PLAN, [noisy_trace(rng, PLAN, real, GRAPH, 0.05)])])
    made = calibrated_plan(PLAN, found)
    assert [d.type.name for d in made.cluster.devices] == ["cpu-1", "cpu-1", "cpu-2", "cpu-1"]
    fast, slow = (op_times(made.graph, made.cluster).total_s[k].sum() for k in (0, 1))
    assert slow / fast == pytest.approx(1.6, rel=0.03)
    assert made.cluster.device_types[0].speed / made.cluster.device_types[1].speed == pytest.approx(1.6, rel=0.03)
    really = simulate(dataclasses.replace(PLAN, cluster=real)).prediction.iteration_time_s
    assert simulate(made).prediction.iteration_time_s == pytest.approx(really, rel=0.03)
    again = cluster_from_dict(cluster_to_dict(made.cluster))
    assert [t.speed for t in again.device_types] == [t.speed for t in made.cluster.device_types]


def test_what_passes_take_besides_their_ops_is_predicted_for_other_plans() -> None:
    """Two passes in five are overhead where a device has one op; with four ops it is one in eight."""
    graph = chain_graph(16, forward_s=3e-4, tensor_bytes=1e6, param_bytes=1e6)
    labels = [0] + [1] * 3 + [2] * 8 + [3] * 4
    plans = [make_plan(graph, labels, [(d,), (1 - d,), (2,), (3,)], num_microbatches=8) for d in (0, 1)]
    plan = plans[0]
    real = dataclasses.replace(
        plan.cluster, device_types=tuple(dataclasses.replace(t, action_s=2e-4) for t in plan.cluster.device_types)
    )
    traces = [simulate(dataclasses.replace(p, cluster=real)).trace for p in plans]
    found = calibrate([measurements(p, [trace]) for p, trace in zip(plans, traces, strict=True)])
    assert found.action_s.value == pytest.approx(2e-4, rel=0.2)
    other = make_plan(graph, [0] * 2 + [1] * 14, [(0,), (1,)], num_microbatches=8)
    really = simulate(dataclasses.replace(other, cluster=real)).prediction.iteration_time_s
    made = calibrated_plan(other, found)
    assert simulate(made).prediction.iteration_time_s == pytest.approx(really, rel=0.02)
    assert cluster_from_dict(cluster_to_dict(made.cluster)).device_types[0].action_s == found.action_s.value


def test_the_update_gives_a_bandwidth() -> None:
    """A type whose memory bandwidth nobody gave takes time for the optimizer's step then."""
    types = tuple(dataclasses.replace(t, memory_bandwidth=1e9) for t in PLAN.cluster.device_types)
    trace = simulate(dataclasses.replace(PLAN, cluster=dataclasses.replace(PLAN.cluster, device_types=types))).trace
    made = calibrated_plan(PLAN, calibrate([measurements(PLAN, [trace])]))
    assert made.cluster.device_types[0].memory_bandwidth == pytest.approx(1e9, rel=0.01)


def test_of_equal_devices_the_one_that_computes_more_counts_more() -> None:
    """Sixty ops are as long as said, and one by a third longer: that one tells little of the others."""
    graph = chain_graph(61, forward_s=1e-3, tensor_bytes=1e3, param_bytes=1e3)
    plan = make_plan(graph, [0] * 60 + [1], [(0,), (1,)], num_microbatches=8)
    trace = simulate(plan).trace
    longer = tuple(
        dataclasses.replace(e, end_s=e.start_s + 4 / 3 * (e.end_s - e.start_s))
        if e.device == 1 and e.kind in "FB"
        else e
        for e in trace.events
    )
    made = calibrated_plan(plan, calibrate([measurements(plan, [dataclasses.replace(trace, events=longer)])]))
    assert [t.name for t in made.cluster.device_types] == ["cpu"]
    before, after = (op_times(p.graph, p.cluster).total_s[0].sum() for p in (plan, made))
    assert after == pytest.approx(before, rel=0.02)
