"""Costs that are calibrated from the noisy trace of one plan predict other plans on the same devices."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from drlpp.cluster import Cluster
from drlpp.cost.calibration import calibrate, calibrated_plan, measurements
from drlpp.cost.calibration.parameters import NETWORK
from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.graph.generate.transformers import Transformer, transformer_graph
from drlpp.plan import Plan, Provenance
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator, simulate
from plan_cases import make_plan
from random_problems import random_assignment, random_cluster
from wrong_costs import noisy_trace, true_cluster, true_graph


def devices(plan: Plan) -> set[int]:
    return {d for stage in plan.stages for d in stage.devices}


def talk(plan: Plan) -> set[frozenset[int]]:
    """Pairs of hosts between whose devices messages go; one host, where they stay inside."""
    host = plan.cluster.host_index.tolist()
    return {frozenset((host[t.src], host[t.dst])) for t in simulate(plan).transfers}


def talk_and_sum(plan: Plan) -> set[frozenset[int]]:
    """The same, with all pairs of devices that sum gradients."""
    host = plan.cluster.host_index.tolist()
    pairs = (pair for stage in plan.stages for pair in itertools.combinations(stage.devices, 2))
    return talk(plan) | {frozenset((host[a], host[b])) for a, b in pairs}


@pytest.mark.parametrize("seed", [0, 3, 6, 10, 15])
def test_other_plans_are_predicted(seed: int) -> None:
    """Types are off by up to 2x, links by up to 4x, classes of ops by 1.25x; three steps jitter by 5 %."""
    rng = np.random.default_rng(seed)
    number = int(rng.integers(3, 9))
    cluster, graph = random_cluster(rng, number), random_graph(rng, 60, measured=True)
    evaluator = Evaluator(PlanningProblem.build(graph, cluster, num_microbatches=8))

    def plan() -> Plan:
        return evaluator.make_plan(random_assignment(rng, graph, number), Provenance(planner="test"))

    real, real_graph = true_cluster(rng, cluster), true_graph(rng, graph, cluster)
    ran = next(p for p in iter(plan, None) if len(devices(p)) == number)
    found = calibrate([measurements(ran, [noisy_trace(rng, ran, real, real_graph, 0.05) for _ in range(3)])])
    errors, before = [], []
    seen = talk(ran)
    for other in [p for p in (plan() for _ in range(30)) if talk_and_sum(p) <= seen][:10]:
        really = simulate(dataclasses.replace(other, cluster=real, graph=real_graph)).prediction.iteration_time_s
        errors.append(abs(simulate(calibrated_plan(other, found)).prediction.iteration_time_s / really - 1))
        before.append(abs(simulate(other).prediction.iteration_time_s / really - 1))
    assert float(np.mean(errors)) < 0.03
    assert float(np.mean(errors)) < 0.2 * float(np.mean(before))


@pytest.mark.slow
def test_groups_that_divide_ops() -> None:
    """Devices are 1.6 times as slow as believed and their link 3 times; other degrees are predicted."""
    graph = transformer_graph(Transformer(layers=2, hidden=1024, heads=8, ffn=4096, seq=512, batch=1, vocab=8000))
    stages = [2 * i // graph.num_ops for i in range(graph.num_ops)]

    def plan(*devices: list[int | tuple[int, ...]]) -> Plan:
        labels = stages if len(devices) == 2 else [0] * graph.num_ops
        return make_plan(graph, labels, devices, num_microbatches=4, zero1=len(devices) == 1)

    ran = plan([(0, 1)], [(2, 3)])
    kind, host = ran.cluster.device_types[0], ran.cluster.hosts[0]
    believed = dataclasses.replace(kind, memory_bandwidth=1e11)
    slow = dataclasses.replace(believed, speed=1 / 1.6, speed_is_given=True, memory_bandwidth=5e10)
    assert host.link is not None
    link = dataclasses.replace(host.link, bandwidth=host.link.bandwidth / 3)
    ran = dataclasses.replace(ran, cluster=dataclasses.replace(ran.cluster, device_types=(believed,)))
    real = Cluster("real", (slow,), (dataclasses.replace(host, link=link),))
    rng = np.random.default_rng(0)
    found = calibrate([measurements(ran, [noisy_trace(rng, ran, real, graph, 0.05) for _ in range(3)])])
    assert found.together == ((0, 1), (2, 3))
    assert found.op_factor([0, 1], 0).value == pytest.approx(1.6, rel=0.1)
    assert found.wire_factor("inside", 0).value == pytest.approx(3, rel=0.2)
    assert found.update_bandwidth[0] == pytest.approx(5e10, rel=0.1)
    for devices in ([[(0, 1)], [(2, 3)]], [[0], [1]], [[(0, 1), (2, 3)]], [[(0, 1, 2, 3)]]):
        other = dataclasses.replace(plan(*devices), cluster=ran.cluster)  # type: ignore[arg-type]
        really = simulate(dataclasses.replace(other, cluster=real)).prediction.iteration_time_s
        assert simulate(calibrated_plan(other, found)).prediction.iteration_time_s == pytest.approx(really, rel=0.08)


def test_the_uncertainty_tells_what_was_not_measured() -> None:
    graph = chain_graph(4, forward_s=1e-3, tensor_bytes=1e6, param_bytes=1e6)
    plan = make_plan(graph, [0, 0, 1, 1], [(0,), (1,)], num_microbatches=4)  # devices 0 and 1 share a host
    found = calibrate([measurements(plan, [simulate(plan).trace] * 2)])
    assert found.counts == {"actions": 32, "transfers": 16, "all_reduces": 0}
    assert found.op_factor([0], 0).value == pytest.approx(1.0, abs=0.02)
    assert found.op_factor([0], 0).deviation < 0.1 < found.op_factor([3], 0).deviation < 0.3
    assert found.wire_factor("inside", 0).deviation < 0.1
    assert found.wire_factor(NETWORK, 0).deviation > 0.5
    assert found.latency_factor(NETWORK, 0).deviation > 1.0


def test_transfer_times_of_the_graph() -> None:
    chain = chain_graph(2, forward_s=1e-3, tensor_bytes=1e6)
    graph = dataclasses.replace(chain, edges=tuple(dataclasses.replace(e, transfer_s=1e-3) for e in chain.edges))
    slow = dataclasses.replace(chain, edges=tuple(dataclasses.replace(e, transfer_s=3e-3) for e in chain.edges))
    plan = make_plan(graph, [0, 1], [(0,), (1,)], num_microbatches=4)
    trace = simulate(dataclasses.replace(plan, graph=slow)).trace
    found = calibrate([measurements(plan, [trace])])
    assert found.edge_factor().value == pytest.approx(3.0, rel=0.02)
    assert calibrated_plan(plan, found).graph.edges[0].transfer_s == pytest.approx(3e-3, rel=0.02)


def test_what_cannot_be_calibrated() -> None:
    graph = chain_graph(2, forward_s=1e-3, tensor_bytes=1e6)
    plan = make_plan(graph, [0, 1], [(0,), (1,)], num_microbatches=2)
    other = dataclasses.replace(plan, graph=chain_graph(2, forward_s=2e-3, tensor_bytes=1e6))
    with pytest.raises(InputError, match="there is nothing to calibrate from"):
        calibrate([])
    with pytest.raises(InputError, match="several models or clusters"):
        calibrate([measurements(p, [simulate(p).trace]) for p in (plan, other)])
