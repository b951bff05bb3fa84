"""The steady-state load against a slow, literal version of its definition."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost import all_reduce_s, gradient_groups, transfer_s
from drlpp.cost.stage_costs import stage_costs
from drlpp.graph import Edge, Op, OpGraph, OpTimes
from drlpp.plan import Assignment
from drlpp.plan.shares import turns
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from random_problems import random_problem


def literal_loads(problem: PlanningProblem, assignment: Assignment) -> dict[int, float]:
    cluster, devices = problem.cluster, assignment.devices
    costs = stage_costs(problem, assignment.stage_of_op, assignment.num_stages, assignment.settings)
    load: dict[int, float] = defaultdict(float)
    shares = [settings.shares for settings in assignment.settings]
    rounds = [turns(own, len(replicas)) for own, replicas in zip(shares, devices, strict=True)]
    for s, replicas in enumerate(devices):
        for r, d in enumerate(replicas):
            seconds = costs.forward_s[s, d] + costs.again_s[s, d] + costs.backward_s[s, d]
            load[d] += seconds * (shares[s][r] if shares[s] else 1) / len(rounds[s])
    for message in costs.graph.messages:
        period = math.lcm(*(len(rounds[s]) for s in (message.src, *message.dsts)))
        for m in range(period):
            src, *dsts = (devices[s][rounds[s][m % len(rounds[s])]] for s in (message.src, *message.dsts))
            others = set(dsts) - {src}
            for q in others:
                seconds = message.transfer_s
                if seconds is None:
                    seconds = transfer_s(cluster.path(src, q), message.bytes)
                times = 2 if message.requires_grad and message.phase == "forward" else 1
                load[q] += times * seconds / period
                if message.transfer_s is None:
                    load[src] += times * seconds / period
                elif times == 2:
                    load[src] += seconds / period
            if others and message.transfer_s is not None:
                load[src] += message.transfer_s / period
    for group in gradient_groups(costs, devices):
        for d in group.devices:
            load[d] += all_reduce_s(cluster, group.devices, group.num_bytes) / problem.training.num_microbatches
    return load


def test_equals_the_definition():
    for seed in range(150):
        problem, assignment = random_problem(seed)
        expected = max(literal_loads(problem, assignment).values())
        assert Evaluator(problem).bottleneck_s(assignment) == pytest.approx(expected, rel=1e-9), seed


def test_given_transfer_times_load_the_sender_once_and_every_receiver_once():
    """The max-load of dnn-partitioning: op times, plus the cost of each value sent (once) and received (once)."""
    rng = np.random.default_rng(0)
    device = DeviceType(name="d", memory_bytes=1)
    cluster = Cluster("c", (device,), (Host(name="h", devices=("d",) * 3, link=Link(bandwidth=1.0)),))
    for _ in range(30):
        n = 12
        seconds, cost = rng.random(n), rng.random(n)
        arcs = [(i, j) for j in range(n) for i in range(j) if rng.random() < 0.3]
        ops = tuple(Op(name=f"{i}", kind="x", times={"reference": OpTimes(seconds[i], 0.0)}) for i in range(n))
        edges = tuple(
            Edge(src=f"{i}", dst=f"{j}", tensor=f"t{i}", requires_grad=False, transfer_s=float(cost[i]))
            for i, j in arcs
        )
        sizes = {f"t{i}": 0.0 for i in range(n)}
        problem = PlanningProblem.build(OpGraph(name="g", ops=ops, edges=edges, tensor_bytes=sizes), cluster)
        labels = np.sort(np.concatenate([np.arange(5), rng.integers(0, 5, n - 5)]))
        places = rng.integers(0, 3, 5)
        where = places[labels]
        loads = np.bincount(where, weights=seconds, minlength=3)
        for i in range(n):
            receivers = {int(where[j]) for a, j in arcs if a == i} - {int(where[i])}
            for d in receivers | ({int(where[i])} if receivers else set()):
                loads[d] += cost[i]
        assignment = Assignment(labels, tuple((int(d),) for d in places))
        assert Evaluator(problem).bottleneck_s(assignment) == pytest.approx(loads.max())


def test_long_periods_are_cut_off():
    problem, _ = random_problem(3)
    sizes = [7, 8, 9, 11, 13]
    device = DeviceType(name="d", memory_bytes=10**9)
    host = Host(name="h", devices=("d",) * sum(sizes), link=Link(bandwidth=1e9))
    ops = tuple(Op(name=f"o{i}", kind="x", times={"reference": OpTimes(1.0, 1.0)}) for i in range(5))
    edges = tuple(Edge(src="o0", dst=f"o{i}", tensor="t") for i in range(1, 5))
    graph = OpGraph(name="g", ops=ops, edges=edges, tensor_bytes={"t": 1e9})
    problem = dataclasses.replace(problem, graph=graph, cluster=Cluster("c", (device,), (host,)))
    ends = np.cumsum([0, *sizes])
    devices = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(ends.tolist()))
    # device of stage 0, one of 7: (2 s + 4 messages and 4 gradients of 1 s) / 7
    assert Evaluator(problem).bottleneck_s(Assignment(np.arange(5), devices)) == pytest.approx(10 / 7, rel=1e-3)
