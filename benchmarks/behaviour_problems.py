"""Problems and assignments for `behaviour.py`, which depend on their seed only."""

from __future__ import annotations

import dataclasses

import numpy as np

from drlpp.cluster import Cluster, DeviceType, Host, Link, load_cluster
from drlpp.graph import OpGraph
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem

try:
    from drlpp.graph.generate.families import FAMILIES
    from drlpp.graph.generate.synthetic import random_graph
except ImportError:
    from drlpp.graph.families import FAMILIES  # type: ignore[import-not-found,no-redef]
    from drlpp.graph.synthetic import random_graph  # type: ignore[import-not-found,no-redef]
try:
    from drlpp.plan.settings import of_columns
except ImportError:  # settings had no type

    def of_columns(columns):  # type: ignore[misc,no-untyped-def]
        return columns["recompute"]


def random_cluster(rng: np.random.Generator, num_devices: int) -> Cluster:
    """Devices of one or three types on one or several hosts, with equal or unequal links and ports."""
    kinds = int(rng.choice([1, 3]))
    types = tuple(
        DeviceType(name=f"type{i}", memory_bytes=int(rng.integers(1, 60)) * 10**8, speed=float(rng.choice([0.5, 1, 2])))
        for i in range(kinds)
    )
    one_host, equal = rng.random() < 0.3, rng.random() < 0.3
    hosts: list[Host] = []
    left = num_devices
    while left:
        size = left if one_host else int(rng.integers(1, left + 1))
        left -= size
        draw = np.random.default_rng(0) if equal else rng
        hosts.append(
            Host(
                name=f"host{len(hosts)}",
                devices=tuple(f"type{int(rng.integers(kinds))}" for _ in range(size)),
                link=Link(bandwidth=float(draw.choice([1e9, 1e10])), latency_s=float(draw.choice([0.0, 1e-5]))),
                network=Link(bandwidth=float(draw.choice([1e8, 1e9])), latency_s=float(draw.choice([0.0, 5e-5]))),
            )
        )
    return Cluster("random", types, tuple(hosts))


def with_special_edges(rng: np.random.Generator, graph: OpGraph) -> OpGraph:
    """The graph with tied parameters and saved views, and edges without gradient, backward, or with given times."""
    timed, explicit, equal_times = rng.random() < 0.3, rng.random() < 0.4, rng.random() < 0.5
    edges, seconds_of = [], {}
    for edge in graph.edges:
        e = edge
        if explicit and rng.random() < 0.5:
            e = dataclasses.replace(e, src=e.dst, dst=e.src, tensor=f"g{e.dst}", phase="backward")
        seconds = seconds_of.setdefault(e.tensor, float(rng.choice([1e-4, 2e-4, 5e-3]))) if timed else None
        edges.append(dataclasses.replace(e, requires_grad=bool(rng.random() < 0.6), transfer_s=seconds))
    ops = []
    for i, op in enumerate(graph.ops):
        saved = (*op.saved, graph.ops[int(rng.integers(i + 1))].name) if rng.random() < 0.3 else op.saved
        params = (("shared", "also")[int(rng.integers(2))], *op.params) if rng.random() < 0.3 else op.params
        times = {k: dataclasses.replace(t, forward_s=1e-3, input_grad_s=1e-3) for k, t in op.times.items()}
        ops.append(dataclasses.replace(op, params=params, saved=saved, times=times if equal_times else op.times))
    tensors = dict(graph.tensor_bytes) | {f"g{op.name}": 1e6 for op in graph.ops} | {op.name: 2e6 for op in graph.ops}
    params_of = {**graph.param_bytes, "shared": 3e6, "also": 5e6}
    return dataclasses.replace(graph, ops=tuple(ops), edges=tuple(edges), tensor_bytes=tensors, param_bytes=params_of)


def random_assignment(rng: np.random.Generator, graph: OpGraph, num_devices: int) -> Assignment:
    """A legal partition, with replicas, stages that share devices, looped or folded placements, and recomputation."""
    most = int(rng.integers(1, 13))
    labels = np.zeros(graph.num_ops, dtype=np.int64)
    for i in range(graph.num_ops):
        low = max((int(labels[j]) for j in graph.predecessors[i]), default=0)
        labels[i] = min(most - 1, low + int(rng.integers(0, 3)) * int(rng.random() < 0.5))
    used, stage_of_op = np.unique(labels, return_inverse=True)
    style, order = int(rng.integers(4)), rng.permutation(num_devices)
    devices: list[tuple[int, ...]] = []
    for s in range(len(used)):
        if style == 1:  # looped over the devices
            devices.append((int(order[s % max(1, len(used) // 2) % num_devices]),))
        elif style == 2:  # folded, in the shape of a V
            devices.append((int(order[min(s, len(used) - 1 - s) % num_devices]),))
        else:
            count = 1 if rng.random() < 0.6 else int(rng.integers(1, num_devices + 1))
            devices.append(tuple(int(d) for d in rng.permutation(num_devices)[:count]))
    recompute = tuple(bool(rng.random() < 0.3) for _ in used)
    return Assignment(stage_of_op.astype(np.int64), tuple(devices), of_columns({"recompute": recompute}))


def random_problem(seed: int, most_ops: int = 30, most_devices: int = 8) -> tuple[PlanningProblem, Assignment]:
    """A problem and an assignment."""
    rng = np.random.default_rng(seed)
    number = int(rng.integers(2, most_ops + 1))
    branching = float(rng.choice([0.0, 0.3, 0.6]))
    graph = random_graph(rng, number, branching=branching, skips=0.2, measured=bool(rng.random() < 0.5))
    if rng.random() < 0.4:
        graph = with_special_edges(rng, graph)
    cluster = random_cluster(rng, int(rng.integers(1, most_devices + 1)))
    optimizer = str(rng.choice(["sgd", "momentum", "adamw"]))
    micro_batches = int(rng.integers(1, 13))
    problem = PlanningProblem.build(graph, cluster, num_microbatches=micro_batches, optimizer=optimizer)
    return problem, random_assignment(rng, graph, cluster.num_devices)


def generated_problem(number: int) -> PlanningProblem:
    """A model's graph of a family on a preset, or on unequal devices."""
    names = ("transformer", "resnet", "inception", "unet", "two-tower", "nasnet", "gnmt", "densenet")
    makers = {key.replace("_", "-"): make for key, make in FAMILIES.items()}
    make = makers.get(names[number]) or sorted(makers.items())[number][1]
    graph = make(np.random.default_rng(number))
    cluster = load_cluster("paper-4x4-10gbe") if number % 2 else random_cluster(np.random.default_rng(number), 6)
    return PlanningProblem.build(graph, cluster)
