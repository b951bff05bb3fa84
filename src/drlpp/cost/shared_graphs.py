"""What the groups of a problem's cluster compute and hold: the best sharing of its graph for each kind of group.

A device that stands for a group holds what all of its members hold together: a parameter that they divide counts once,
one that each has whole, and a buffer, count for each.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from drlpp.cluster import DeviceGroup
from drlpp.cost.sharding import ShardedGraph, shard
from drlpp.graph import OpGraph
from drlpp.problem import PlanningProblem, per_problem


def shared_graph(problem: PlanningProblem, group: DeviceGroup) -> ShardedGraph:
    """How a group shares the graph of a problem. Raises InputError if the graph says of no op how to divide it."""
    known = _known(problem)
    if group not in known:
        known[group] = shard(
            problem.graph,
            group.member,
            group.link,
            group.size,
            sequence=group.sequence,
            num_microbatches=problem.training.num_microbatches,
        )
    return known[group]


def use_shared_graph(problem: PlanningProblem, group: DeviceGroup, shared: ShardedGraph) -> None:
    """Has a group share the graph of a problem in a way that was chosen elsewhere."""
    _known(problem)[group] = shared


def keep_shared_graphs(of: PlanningProblem, to: PlanningProblem) -> None:
    """Lets a problem with the same graph and micro-batches use what is known of another."""
    to.derived[_known] = _known(of)


def _known(problem: PlanningProblem) -> dict[DeviceGroup, ShardedGraph]:
    """Group -> how it shares the graph, as far as that was asked."""
    known: dict[DeviceGroup, ShardedGraph] = problem.derived.setdefault(_known, {})
    return known


@per_problem
def held_graphs(problem: PlanningProblem) -> tuple[OpGraph, ...]:
    """The graph with the bytes that a device holds, by device type; the problem's own where nothing is divided."""
    kinds = problem.cluster.device_types
    return tuple(problem.graph if kind.group is None else _held(problem, kind.group) for kind in kinds)


def contracted(problem: PlanningProblem, graph: OpGraph, **changes: Any) -> PlanningProblem:
    """The problem with a contraction of its graph. Tensors, parameters and buffers are held as those of the graph.

    Args:
        graph: of `drlpp.graph.contract`, with the times of the problem.
        changes: of other fields; a cluster of the same device types.
    """
    made = dataclasses.replace(problem, graph=graph, **changes)
    fine = dict(zip((kind.name for kind in problem.cluster.device_types), held_graphs(problem), strict=True))
    made.derived[held_graphs] = tuple(
        graph
        if kind.group is None
        else dataclasses.replace(
            graph,
            tensor_bytes=fine[kind.name].tensor_bytes,
            param_bytes=fine[kind.name].param_bytes,
            buffer_bytes=fine[kind.name].buffer_bytes,
        )
        for kind in made.cluster.device_types
    )
    return made


def _held(problem: PlanningProblem, group: DeviceGroup) -> OpGraph:
    member = shared_graph(problem, group).graph
    return dataclasses.replace(
        problem.graph,
        tensor_bytes={name: member.tensor_bytes[name] * group.size for name in problem.graph.tensor_bytes},
        param_bytes={name: member.param_bytes[name] * group.size for name in problem.graph.param_bytes},
        buffer_bytes={name: size * group.size for name, size in member.buffer_bytes.items()},
    )
