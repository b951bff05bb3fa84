"""Clusters and graphs that differ from what a planner believes, and noisy traces of what then happens."""

from __future__ import annotations

import dataclasses

import numpy as np

from drlpp.cluster import Cluster, Link
from drlpp.cost.op_times import class_of
from drlpp.graph import OpGraph, OpTimes
from drlpp.plan import Plan, Trace
from drlpp.sim import simulate


def true_cluster(rng: np.random.Generator, cluster: Cluster, devices: float = 2.0, links: float = 4.0) -> Cluster:
    """A cluster whose types are up to `devices` times faster or slower, and whose links up to `links` times."""

    def factor(most: float) -> float:
        return float(np.exp(rng.uniform(-np.log(most), np.log(most))))

    types = tuple(
        dataclasses.replace(t, speed=t.speed * factor(devices), speed_is_given=True) for t in cluster.device_types
    )
    inside, network = factor(links), factor(links)

    def other(link: Link | None, by: float) -> Link | None:
        return None if link is None else dataclasses.replace(link, bandwidth=link.bandwidth * by)

    hosts = tuple(
        dataclasses.replace(
            h,
            link=other(h.link, inside),
            links=tuple(dataclasses.replace(g, link=other(g.link, inside)) for g in h.links),
            network=other(h.network, network),
        )
        for h in cluster.hosts
    )
    return Cluster(cluster.name, types, hosts)


def true_graph(rng: np.random.Generator, graph: OpGraph, cluster: Cluster, most: float = 1.25) -> OpGraph:
    """The graph with other times by class of op and part, where it has times."""
    factors = {c: np.exp(rng.uniform(-np.log(most), np.log(most), 3)) for c in dict.fromkeys(map(class_of, graph.ops))}

    def changed(times: OpTimes, by: np.ndarray) -> OpTimes:
        return OpTimes(times.forward_s * by[0], times.input_grad_s * by[1], times.weight_grad_s * by[1])

    ops = tuple(
        dataclasses.replace(op, times={k: changed(t, factors[class_of(op)]) for k, t in op.times.items()})
        for op in graph.ops
    )
    return dataclasses.replace(graph, ops=ops)


def noisy_trace(rng: np.random.Generator, plan: Plan, cluster: Cluster, graph: OpGraph, jitter: float) -> Trace:
    """A trace of a plan as it runs on another cluster, whose events take up to `jitter` more or less."""
    trace = simulate(dataclasses.replace(plan, cluster=cluster, graph=graph)).trace

    def end(start_s: float, end_s: float) -> float:
        return start_s + (end_s - start_s) * float(rng.uniform(1 - jitter, 1 + jitter))

    events = tuple(dataclasses.replace(e, end_s=end(e.start_s, e.end_s)) for e in trace.events)
    return dataclasses.replace(trace, events=events, source="measured")
