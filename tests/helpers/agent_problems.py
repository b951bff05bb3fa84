"""Small problems for the tests of the agent."""

from __future__ import annotations

import numpy as np

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.graph.generate.synthetic import random_graph
from drlpp.problem import PlanningProblem


def unequal_cluster(memory_bytes: int = 10**10) -> Cluster:
    """Five devices of two types on two hosts: classes 2 fast, 1 slow | 2 slow."""
    fast = DeviceType(name="fast", memory_bytes=memory_bytes, speed=1.0, speed_is_given=True)
    slow = DeviceType(name="slow", memory_bytes=memory_bytes, speed=0.4, speed_is_given=True)
    link, network = Link(bandwidth=1e10, latency_s=5e-6), Link(bandwidth=1e9, latency_s=3e-5)
    return Cluster(
        "unequal",
        (fast, slow),
        (
            Host(name="a", devices=("fast", "fast", "slow"), link=link, network=network),
            Host(name="b", devices=("slow", "slow"), link=link, network=network),
        ),
    )


def small_problem(
    seed: int = 0, num_ops: int = 24, memory_bytes: int = 10**10, microbatches: int = 8
) -> PlanningProblem:
    graph = random_graph(np.random.default_rng(seed), num_ops, branching=0.5, skips=0.2, measured=True)
    return PlanningProblem.build(graph, unequal_cluster(memory_bytes), num_microbatches=microbatches)
