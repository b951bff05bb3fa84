"""Chains of equal stages, placed: for the tests of schedules."""

from __future__ import annotations

import numpy as np

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost import PlacedStages, place_stages
from drlpp.cost.stage_costs import stage_costs
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.plan import StageSettings
from drlpp.problem import PlanningProblem
from drlpp.schedules import generate, to_schedule
from drlpp.schedules.orders import BACKWARD, WEIGHT_GRAD
from random_problems import random_recompute, with_blocks


def cluster_of(num_devices: int, memory_bytes: int = 10**12) -> Cluster:
    device = DeviceType(name="d", memory_bytes=memory_bytes)
    return Cluster("c", (device,), (Host(name="h", devices=("d",) * num_devices, link=Link(bandwidth=1e30)),))


def placed_chain(
    devices: list[tuple[int, ...]], num_microbatches: int, shares: tuple[tuple[int, ...], ...] = ()
) -> PlacedStages:
    """A chain with one op (F = I = W = 1 ms) per stage and free transfers."""
    num_devices = 1 + max(d for replicas in devices for d in replicas)
    problem = PlanningProblem.build(chain_graph(len(devices)), cluster_of(num_devices))
    costs = stage_costs(problem, np.arange(len(devices)), len(devices))
    return place_stages(costs, problem.cluster, devices, num_microbatches, shares)


def looped(p: int, n: int) -> list[tuple[int, ...]]:
    """p devices with n stages each, in a loop."""
    return [(s % p,) for s in range(p * n)]


def v_shaped(p: int) -> list[tuple[int, ...]]:
    return [(min(s, 2 * p - 1 - s),) for s in range(2 * p)]


def rows(name: str, placed: PlacedStages) -> dict[int, list[str]]:
    """The schedule of a name as text."""
    schedule = to_schedule(generate(name, placed), placed.used)
    return {rank: [str(a) for a in actions] for rank, actions in schedule.items()}


def random_stages(seed: int) -> PlacedStages:
    """A random DAG of stages with random replicas on up to five devices of one kind with little memory."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, int(rng.integers(2, 25)), branching=0.5, skips=0.3)
    num_stages = int(rng.integers(1, min(8, graph.num_ops) + 1))
    labels = np.sort(rng.integers(0, num_stages, graph.num_ops))
    used, stage_of_op = np.unique(labels, return_inverse=True)
    num_devices = int(rng.integers(1, 6))
    cluster = cluster_of(num_devices, memory_bytes=int(rng.integers(1, 20)) * 10**8)
    devices = [
        tuple(int(d) for d in rng.permutation(num_devices)[: 1 if rng.random() < 0.6 else num_devices]) for _ in used
    ]
    settings = [StageSettings(random_recompute(rng)) for _ in used]
    problem = PlanningProblem.build(with_blocks(graph, 3), cluster)
    costs = stage_costs(problem, stage_of_op.astype(np.int64), len(used), settings)
    placed = place_stages(costs, cluster, devices, int(rng.integers(1, 10)))
    placed.action_s[[BACKWARD, WEIGHT_GRAD]] += 1e-4  # so that no backward pass is without weight gradients
    return placed
