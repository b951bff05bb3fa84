from __future__ import annotations

import itertools

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Assignment, Provenance
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator, explain, simulate
from random_problems import random_problem

WHO = Provenance(planner="test")


def explained(graph, labels, devices, *, speeds=(1.0, 1.0), network=1e12, memory=10**12, m=8, schedule="1f1b"):
    """A plan on one host per device."""
    types = tuple(DeviceType(name=f"d{i}", memory_bytes=memory, speed=s) for i, s in enumerate(speeds))
    link = Link(bandwidth=network)
    hosts = tuple(Host(name=f"h{i}", devices=(f"d{i}",), network=link) for i in range(len(speeds)))
    problem = PlanningProblem.build(graph, Cluster("c", types, hosts), num_microbatches=m)
    assignment = Assignment(np.array(labels), tuple(devices))
    return explain(simulate(Evaluator(problem).make_plan(assignment, WHO, (schedule,))))


def test_the_slow_device_is_the_bottleneck_and_unloading_it_helps():
    result = explained(chain_graph(8), [0, 0, 0, 0, 1, 1, 1, 1], [(0,), (1,)], speeds=(1.0, 0.25))
    assert result.bottleneck == "device 1"
    assert result.bottleneck_busy_fraction > 0.9
    change = result.best_change("plan")
    assert change is not None
    assert change.text == "op 'op4' in stage 0 instead of 1"
    assert change.saves_s > 0
    hardware = result.best_change("hardware")
    assert hardware is not None
    assert hardware.text == "device 1 twice as fast"


def test_a_slow_network_is_the_bottleneck():
    result = explained(chain_graph(2, tensor_bytes=1e6), [0, 1], [(0,), (1,)], network=1e7)
    assert result.bottleneck.startswith("host h")
    hardware = result.best_change("hardware")
    assert hardware is not None
    assert hardware.text == "twice the bandwidth between hosts"
    assert next(iter(result.critical_path_s))[0] == "transfer"


def test_too_little_memory_is_said_and_a_change_that_fits_is_preferred():
    result = explained(chain_graph(2, tensor_bytes=10.0), [0, 1], [(0,), (1,)], memory=60, schedule="gpipe")
    assert [d for d, _ in result.over_memory] == [0, 1]
    change = result.best_change("plan")
    assert change is not None
    assert change.text.startswith("the schedule")
    assert change.over_memory_bytes == 0
    assert any("lacks" in line for line in result.lines())


def test_nothing_helps_a_single_op():
    result = explained(chain_graph(1), [0], [(0,)], speeds=(1.0,))
    assert result.best_change("plan") is None
    assert result.bubble_fraction == pytest.approx((0.0,))


def test_critical_path_is_unbroken_from_the_start_to_the_end():
    unbroken = 0
    for seed in range(60):
        problem, assignment = random_problem(seed)
        simulation = simulate(Evaluator(problem).make_plan(assignment, WHO))
        result = explain(simulation)
        assert explain(simulation.plan) == result
        path = result.critical_path
        assert path[-1].end_s == simulation.prediction.iteration_time_s
        for a, b in itertools.pairwise(path):
            assert a.start_s < a.end_s
            assert a.end_s >= b.start_s
        unbroken += path[0].start_s == 0.0
        assert set(result.busy_s) >= {result.bottleneck}
        assert len(result.lines()) >= 3
    assert unbroken >= 55  # actions that take no time break the path
