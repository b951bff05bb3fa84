"""Small problems for the tests of the planners, and an exhaustive search over them."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from drlpp.cluster import Cluster
from drlpp.cluster.schema import cluster_from_dict
from drlpp.graph import OpGraph
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.graph.readers import read_graph
from drlpp.plan import Objective
from drlpp.plan.assignment import Assignment
from drlpp.problem import PlanningProblem

SPEEDS = {"fast": 2.0, "mid": 1.0, "slow": 0.5}


def small_cluster(
    hosts: Sequence[Sequence[str]],
    *,
    link: str = "10GB/s",
    network: str = "1GB/s",
    memory: str = "1TB",
    latency: str = "0s",
) -> Cluster:
    """Hosts by the names of their devices (keys of `SPEEDS`)."""
    return cluster_from_dict(
        {
            "schema_version": 1,
            "name": "small",
            "device_types": {name: {"speed": speed, "memory": memory} for name, speed in SPEEDS.items()},
            "hosts": [
                {
                    "name": f"h{i}",
                    "devices": list(devices),
                    "link": {"bandwidth": link, "latency": latency},
                    "network": {"bandwidth": network, "latency": latency},
                }
                for i, devices in enumerate(hosts)
            ],
        }
    )


def small_problem(
    seed: int,
    hosts: Sequence[Sequence[str]],
    *,
    num_ops: int = 8,
    objective: Objective = "steady-state",
    num_microbatches: int = 4,
    chain: bool = False,
    **cluster_options: str,
) -> PlanningProblem:
    """A random measured graph on a small cluster."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, num_ops, branching=0.0 if chain else 0.4, skips=0.0 if chain else 0.2, measured=True)
    return PlanningProblem.build(
        graph, small_cluster(hosts, **cluster_options), num_microbatches=num_microbatches, objective=objective
    )


def chain_problem(
    num_ops: int, hosts: Sequence[Sequence[str]], objective: Objective = "steady-state"
) -> PlanningProblem:
    """A chain of equal ops without transfers and parameters."""
    return PlanningProblem.build(chain_graph(num_ops), small_cluster(hosts), num_microbatches=8, objective=objective)


def all_chain_splits(problem: PlanningProblem, *, replicate: bool) -> Iterator[Assignment]:
    """Every way to cut the order of the ops and to give the stages devices (all subsets and orders of them)."""
    n, total = problem.graph.num_ops, problem.cluster.num_devices
    for stages in range(1, min(n, total) + 1):
        for cuts in itertools.combinations(range(1, n), stages - 1):
            labels = np.searchsorted(np.array(cuts, dtype=np.int64), np.arange(n), side="right").astype(np.int64)
            for devices in _placements(total, stages, replicate):
                yield Assignment(labels, devices)


def _placements(total: int, stages: int, replicate: bool) -> Iterator[tuple[tuple[int, ...], ...]]:
    if not replicate:
        for chosen in itertools.permutations(range(total), stages):
            yield tuple((d,) for d in chosen)
        return
    for owner in itertools.product(range(stages + 1), repeat=total):  # stage of each device; the last number: idle
        groups = tuple(tuple(d for d in range(total) if owner[d] == s) for s in range(stages))
        if all(groups):
            yield groups


def data_file(*parts: str) -> Path:
    """A file of the third-party profiles; skips the test where they are absent."""
    root = Path(os.environ.get("DRLPP_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"no third-party profiles at {root} (set DRLPP_DATA)")
    return path


def profile(name: str) -> OpGraph:
    """A PipeDream profile."""
    return read_graph(data_file("pipedream", f"{name}.txt"))


def levels_cluster(machines: int | list[int], bandwidths: float | list[float]) -> Cluster:
    """Equal devices: one host, or hosts of `machines[0]` devices."""
    sizes = [machines] if isinstance(machines, int) else machines
    speeds = [bandwidths] if isinstance(bandwidths, float) else bandwidths
    hosts = sizes[1] if len(sizes) > 1 else 1
    return small_cluster([["mid"] * sizes[0]] * hosts, link=f"{speeds[0]}B/s", network=f"{speeds[-1]}B/s")


def with_split(problem: PlanningProblem, num_stages: int = 2) -> PlanningProblem:
    """The problem, with a split of its source: as many ops in each stage, in their order."""
    ops = problem.graph.ops
    given = {op.name: i * num_stages // len(ops) for i, op in enumerate(ops)}
    return dataclasses.replace(problem, graph=dataclasses.replace(problem.graph, given_stages=given))
