"""Random problems in which groups of devices divide ops."""

from __future__ import annotations

import dataclasses

import numpy as np

from drlpp.cluster import Cluster
from drlpp.cluster.grouping import Grouping
from drlpp.cost.groups import grouped
from drlpp.graph import PARTIAL_SUM, OpGraph, Part, Split
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem
from random_problems import random_problem, with_shares


def with_splits(rng: np.random.Generator, graph: OpGraph) -> OpGraph:
    """The graph with ways to divide most of its ops: by columns and rows of a parameter, or along what they read."""
    reads: dict[str, list[str]] = {op.name: [] for op in graph.ops}
    gives: dict[str, list[str]] = {op.name: [] for op in graph.ops}
    for edge in graph.edges:
        reads[edge.dst].append(edge.tensor)
        gives[edge.src].append(edge.tensor)
    ops = []
    for op in graph.ops:
        read, given = dict.fromkeys(reads[op.name]), dict.fromkeys(gives[op.name])
        size = int(rng.choice([4, 8, 12]))
        splits = [
            Split(
                "columns",
                size,
                tuple(Part(p, 0) for p in op.params),
                tuple(Part(t, 1) for t in given),
                tuple(t for t in op.saved if t in given),
            ),
            Split(
                "rows",
                size,
                (*(Part(p, 1) for p in op.params), *(Part(t, 1) for t in read)),
                tuple(Part(t, PARTIAL_SUM) for t in given),
                tuple(t for t in op.saved if t in read),
            ),
        ]
        if not op.params:
            splits = [Split("features", size, tuple(Part(t, 1) for t in read), tuple(Part(t, 1) for t in given))]
        ops.append(dataclasses.replace(op, splits=tuple(splits) if op is graph.ops[0] or rng.random() < 0.9 else ()))
    return dataclasses.replace(graph, ops=tuple(ops))


def random_grouping(rng: np.random.Generator, cluster: Cluster) -> Grouping:
    """Groups of one, two or four devices of one host and type."""
    alike: dict[tuple[int, str], list[int]] = {}
    for device in cluster.devices:
        alike.setdefault((device.host, device.type.name), []).append(device.id)
    groups = []
    for devices in alike.values():
        while devices:
            size = int(rng.choice([n for n in (1, 2, 4) if n <= len(devices)]))
            groups.append(tuple(devices[:size]))
            del devices[:size]
    return Grouping(tuple(groups))


def random_grouped_problem(seed: int) -> tuple[PlanningProblem, Grouping, PlanningProblem, Assignment]:
    """A problem, groups of its devices, the problem of these groups, and an assignment of that one."""
    rng = np.random.default_rng(seed)
    problem, assignment = random_problem(seed)
    grouping = random_grouping(rng, problem.cluster)
    problem = dataclasses.replace(problem, graph=with_splits(rng, problem.graph))
    made = grouped(problem, grouping, sequence=bool(rng.random() < 0.5))
    devices = []
    for replicas in assignment.devices:
        first = int(replicas[0]) % made.cluster.num_devices
        kind = made.cluster.type_index
        same = [d for d in range(made.cluster.num_devices) if kind[d] == kind[first]]
        others = [d for d in same if d != first][: len(replicas) - 1]
        devices.append((first, *others))
    lifted = Assignment(assignment.stage_of_op, tuple(devices), tuple(s.elsewhere for s in assignment.settings))
    return problem, grouping, made, with_shares(rng, lifted) if seed % 3 == 1 else lifted
