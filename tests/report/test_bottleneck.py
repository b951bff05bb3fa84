from __future__ import annotations

import dataclasses

import numpy as np
from hand_plans import make_plan

from drlpp.cluster import cluster_from_dict
from drlpp.graph.synthetic import chain_graph
from drlpp.problem import PlanningProblem
from drlpp.report.bottleneck import bottleneck_and_advice
from drlpp.sim import Simulation, simulate


def chain(
    labels: list[int], num_microbatches: int, *, network: str = "100GB/s", hosts: int = 2, megabytes: float = 0.0
) -> Simulation:
    """A chain of equal ops on devices 0, 1, ..., each on a host of its own or all on one."""
    host = {"name": "h", "count": hosts, "devices": ["d"] * (4 // hosts)}
    host |= {"link": {"bandwidth": "100GB/s"}, "network": {"bandwidth": network}}
    types = {"d": {"speed": 1.0, "memory": "16GB"}}
    cluster = cluster_from_dict({"schema_version": 1, "name": "c", "device_types": types, "hosts": [host]})
    graph = chain_graph(len(labels), tensor_bytes=megabytes * 1e6)
    problem = PlanningProblem.build(graph, cluster, num_microbatches=num_microbatches)
    return simulate(make_plan(problem, labels, [(s,) for s in range(max(labels) + 1)], "hand"))


def test_a_device_that_is_always_busy_beside_an_idle_one():
    first, second = bottleneck_and_advice(chain([0, 0, 0, 1], 64))
    assert first == "The bottleneck is device #0 (d, stage 0), which computes 100% of the time."
    assert second == "Work moved from it to #1 (d), which computes 33%, would help."


def test_balanced_devices():
    first, second = bottleneck_and_advice(chain([0, 1], 64))
    assert "computes 9" in first
    assert second == "All devices in use are about as busy: only faster or more devices would help."


def test_few_microbatches_leave_gaps():
    first, second = bottleneck_and_advice(chain([0, 1, 2, 3], 4))
    assert first.startswith("No device is busy all the time")
    assert "more than 4 micro-batches per step would fill the gaps" in second


def test_a_slow_port_between_hosts():
    first, second = bottleneck_and_advice(chain([0, 0, 1, 1, 2, 2], 32, network="100MB/s", megabytes=2.0))
    assert first.startswith("The bottleneck is the network port of host h")
    assert "faster network" in second


def test_a_slow_link_that_is_not_always_busy():
    simulation = chain([0, 1], 8)
    total = simulation.prediction.iteration_time_s
    first, second = bottleneck_and_advice(
        dataclasses.replace(
            simulation,
            busy_s={"0->1": 0.4 * total},
            prediction=dataclasses.replace(simulation.prediction, bubble_fraction=(0.7, 0.7, 1.0, 1.0)),
        )
    )
    assert first == "The bottleneck is the link from device #0 to #1, which is occupied 40% of the time."
    assert second.startswith("Devices wait 70% of the step")


def test_no_costs():
    graph = chain_graph(2, forward_s=0.0)
    cluster = cluster_from_dict(
        {
            "schema_version": 1,
            "name": "c",
            "device_types": {"d": {"speed": 1.0, "memory": "1GB"}},
            "hosts": [{"name": "h", "devices": ["d", "d"], "link": {"bandwidth": 1e30}}],
        }
    )
    plan = make_plan(PlanningProblem.build(graph, cluster), np.array([0, 1]).tolist(), [(0,), (1,)], "hand")
    assert bottleneck_and_advice(simulate(plan)) == ["The plan takes no time: its graph has no costs."]
