"""Random problems and assignments for the tests of the simulator."""

from __future__ import annotations

import dataclasses

import numpy as np

from drlpp.cluster import Cluster, DeviceType, GroupLink, Host, Link
from drlpp.graph import OpGraph
from drlpp.graph.blocks import Recompute
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import Assignment, StageSettings
from drlpp.problem import PlanningProblem


def random_links(rng: np.random.Generator, num_devices: int) -> tuple[GroupLink, ...]:
    """Links of groups of devices of a host that have no device in common; none on half of the hosts."""
    if num_devices < 2 or rng.random() < 0.5:
        return ()
    order, size = rng.permutation(num_devices), int(rng.integers(2, num_devices + 1))
    groups = [sorted(order[i : i + size].tolist()) for i in range(0, num_devices, size)]
    bandwidths = rng.choice([1e8, 1e10, 1e11], size=len(groups))
    return tuple(
        GroupLink(tuple(group), Link(bandwidth=float(bandwidth), latency_s=float(rng.choice([0.0, 1e-4]))))
        for group, bandwidth in zip(groups, bandwidths, strict=True)
        if len(group) > 1
    )


def random_cluster(rng: np.random.Generator, num_devices: int) -> Cluster:
    """Devices of three types, spread at random over hosts with unequal links and ports."""
    types = tuple(
        DeviceType(name=f"type{i}", memory_bytes=int(rng.integers(1, 40)) * 10**8, speed=float(rng.choice([0.5, 1, 2])))
        for i in range(3)
    )
    hosts, left = [], num_devices
    while left:
        size = int(rng.integers(1, left + 1))
        left -= size
        hosts.append(
            Host(
                name=f"host{len(hosts)}",
                devices=tuple(f"type{int(rng.integers(3))}" for _ in range(size)),
                link=Link(bandwidth=float(rng.choice([1e9, 1e10])), latency_s=float(rng.choice([0.0, 1e-5]))),
                network=Link(bandwidth=float(rng.choice([1e8, 1e9])), latency_s=float(rng.choice([0.0, 5e-5]))),
                links=random_links(rng.spawn(1)[0], size),
            )
        )
    return Cluster("random", types, tuple(hosts))


def random_assignment(rng: np.random.Generator, graph: OpGraph, num_devices: int, *, chain: bool = False) -> Assignment:
    """A legal partition (stages are not segments of the order) with random replicas, co-location and recomputation."""
    num_labels = int(rng.integers(1, 9))
    labels = np.zeros(graph.num_ops, dtype=np.int64)
    for i in range(graph.num_ops):
        low = max((int(labels[j]) for j in graph.predecessors[i]), default=0)
        labels[i] = min(num_labels - 1, low + int(rng.integers(0, 3)) * int(rng.random() < 0.5))
    used, stage_of_op = np.unique(labels, return_inverse=True)
    devices = []
    for _ in used:
        count = 1 if chain or rng.random() < 0.6 else int(rng.integers(1, num_devices + 1))
        devices.append(tuple(int(d) for d in rng.permutation(num_devices)[:count]))
    settings = tuple(StageSettings(random_recompute(rng)) for _ in used)
    return Assignment(stage_of_op.astype(np.int64), tuple(devices), settings)


def with_shares(rng: np.random.Generator, assignment: Assignment) -> Assignment:
    """The assignment with unequal shares of the micro-batches in most stages that have replicas."""
    shares = tuple(
        tuple(int(share) for share in rng.integers(1, int(rng.choice([3, 5, 12])), size=len(devices)))
        if rng.random() < 0.8
        else ()
        for devices in assignment.devices
    )
    each = zip(assignment.settings, shares, strict=True)
    settings = tuple(dataclasses.replace(given, shares=own) for given, own in each)
    return dataclasses.replace(assignment, settings=settings)


def random_recompute(rng: np.random.Generator) -> Recompute:
    """Nothing in most stages; else the stage or its blocks."""
    draw = rng.random()
    return Recompute.NONE if draw >= 0.3 else Recompute.BLOCK if draw < 0.15 else Recompute.STAGE


def with_blocks(graph: OpGraph, size: int) -> OpGraph:
    """The graph with every `size` ops as one of some repeated blocks, but for the first op."""
    ops = tuple(
        dataclasses.replace(op, kind="op", module=f"layers.{(i - 1) // size}" if i else "")
        for i, op in enumerate(graph.ops)
    )
    return dataclasses.replace(graph, ops=ops)


def random_problem(seed: int) -> tuple[PlanningProblem, Assignment]:
    """A problem and an assignment that depend on the seed only; one of three has unequal shares of micro-batches."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, int(rng.integers(1, 25)) + 1, branching=0.5, skips=0.3, measured=bool(rng.random() < 0.5))
    if rng.random() < 0.3:
        graph = with_special_edges(rng, graph)
    if seed % 2:
        graph = with_blocks(graph, 2 + seed % 3)
    cluster = random_cluster(rng, int(rng.integers(1, 7)))
    number = int(rng.integers(1, 9))
    problem = PlanningProblem.build(graph, cluster, num_microbatches=number)
    if seed % 2:
        problem = dataclasses.replace(problem, training=dataclasses.replace(problem.training, zero1=True))
    assignment = random_assignment(rng, graph, cluster.num_devices)
    return problem, with_shares(rng.spawn(1)[0], assignment) if seed % 3 == 1 else assignment


def with_action_times(problem: PlanningProblem) -> PlanningProblem:
    """The problem with passes that take some time besides their ops, another one on each type."""
    kinds = enumerate(problem.cluster.device_types, 1)
    types = tuple(dataclasses.replace(t, action_s=2e-4 * k) for k, t in kinds)
    return dataclasses.replace(problem, cluster=dataclasses.replace(problem.cluster, device_types=types))


def with_special_edges(rng: np.random.Generator, graph: OpGraph) -> OpGraph:
    """The graph with tied parameters, edges without gradient, edges of the backward pass, or given transfer times.

    Some ops save what another op makes, of which they may have got views only.
    """
    timed, explicit = rng.random() < 0.3, rng.random() < 0.4
    equal_times = rng.random() < 0.5
    edges, seconds_of = [], {}
    for e in graph.edges:
        if explicit and rng.random() < 0.5:
            e = dataclasses.replace(e, src=e.dst, dst=e.src, tensor=f"g{e.dst}", phase="backward")
        seconds = seconds_of.setdefault(e.tensor, float(rng.choice([1e-4, 2e-4, 5e-3]))) if timed else None
        edges.append(dataclasses.replace(e, requires_grad=bool(rng.random() < 0.6), transfer_s=seconds))
    ops = []
    for i, op in enumerate(graph.ops):
        saved = (*op.saved, graph.ops[int(rng.integers(i + 1))].name) if rng.random() < 0.3 else op.saved
        params = ("shared", *op.params) if rng.random() < 0.2 else op.params
        times = {k: dataclasses.replace(t, forward_s=1e-3, input_grad_s=1e-3) for k, t in op.times.items()}
        ops.append(dataclasses.replace(op, params=params, saved=saved, times=times if equal_times else op.times))
    tensors = dict(graph.tensor_bytes) | {f"g{op.name}": 1e6 for op in graph.ops} | {op.name: 2e6 for op in graph.ops}
    return dataclasses.replace(
        graph,
        ops=tuple(ops),
        edges=tuple(edges),
        tensor_bytes=tensors,
        param_bytes={**graph.param_bytes, "shared": 3e6},
    )


def with_frozen(problem: PlanningProblem) -> PlanningProblem:
    """The problem with every third parameter frozen, and buffers: some of one op, some of many."""
    graph = problem.graph
    ops = []
    for i, op in enumerate(graph.ops):
        buffers = [f"b{i}"] * (i % 2) + ["mask"] * (i % 3 == 0)
        ops.append(dataclasses.replace(op, buffers=tuple(buffers)))
    sizes = {name: 7e5 + 1e3 * k for k, name in enumerate(dict.fromkeys(b for op in ops for b in op.buffers))}
    frozen = frozenset(list(graph.param_bytes)[::3])
    return dataclasses.replace(
        problem, graph=dataclasses.replace(graph, ops=tuple(ops), buffer_bytes=sizes, frozen=frozen)
    )
