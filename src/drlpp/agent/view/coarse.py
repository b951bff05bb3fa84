"""The problem that the policy decides on: the same costs, with the ops of a large graph contracted into groups.

Times add up exactly (they are summed per device type), tensors and parameters keep their names, so any partition of
the groups costs what the same partition of the ops costs.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from drlpp.graph import Edge, Op, OpGraph, OpTimes
from drlpp.graph.coarsen import coarsen
from drlpp.plan.assignment import Assignment
from drlpp.problem import PlanningProblem

MAX_GROUPS = 200
"""Larger graphs are coarsened to this many groups of ops for the policy; refinement works on ops."""


@dataclasses.dataclass(frozen=True)
class CoarseProblem:
    """A problem on groups of ops, with the map back.

    Attributes:
        problem: its ops are the groups.
        group_of_op: ``[num_ops]`` of the original graph.
    """

    problem: PlanningProblem
    group_of_op: NDArray[np.int64]

    def expand(self, assignment: Assignment) -> Assignment:
        """The assignment of the original ops that an assignment of the groups stands for."""
        return dataclasses.replace(assignment, stage_of_op=assignment.stage_of_op[self.group_of_op])


def coarse_problem(problem: PlanningProblem, max_groups: int) -> CoarseProblem:
    """Contracts the ops of a problem into at most `max_groups` groups; a small graph keeps its ops.

    Raises:
        InputError: `max_groups` is below 1.
    """
    graph, table = problem.graph, problem.times
    if graph.num_ops <= max_groups:
        return CoarseProblem(problem, np.arange(graph.num_ops))
    group = coarsen(graph, max_groups, table.total_s.mean(axis=0))
    num_groups = int(group.max()) + 1

    def summed(times: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([np.bincount(group, weights=row, minlength=num_groups) for row in times])

    forward, input_grad, weight_grad = summed(table.forward_s), summed(table.input_grad_s), summed(table.weight_grad_s)
    members: list[list[Op]] = [[] for _ in range(num_groups)]
    for op, g in zip(graph.ops, group.tolist(), strict=True):
        members[g].append(op)
    types = problem.cluster.device_types
    ops = tuple(
        _group_op(
            f"group{g}",
            ops_of_group,
            {
                t.name: OpTimes(float(forward[k, g]), float(input_grad[k, g]), float(weight_grad[k, g]))
                for k, t in enumerate(types)
            },
        )
        for g, ops_of_group in enumerate(members)
    )
    coarse = OpGraph(
        name=f"{graph.name}-coarse",
        ops=ops,
        edges=_group_edges(graph, group),
        tensor_bytes=graph.tensor_bytes,
        param_bytes=graph.param_bytes,
        samples_per_microbatch=graph.samples_per_microbatch,
        dtype=graph.dtype,
    )
    return CoarseProblem(dataclasses.replace(problem, graph=coarse), group)


def _group_op(name: str, ops: list[Op], times: dict[str, OpTimes]) -> Op:
    weight: dict[str, float] = defaultdict(float)
    for op in ops:
        weight[op.kind] += op.forward.flop + 1e-6 * op.forward.bytes + 1e-9
    return Op(
        name=name,
        kind=max(sorted(weight), key=lambda kind: weight[kind]),
        members=tuple(m for op in ops for m in op.members),
        params=tuple(dict.fromkeys(p for op in ops for p in op.params)),
        saved=tuple(dict.fromkeys(t for op in ops for t in op.saved)),
        output_bytes=sum(op.output_bytes for op in ops),
        times=times,
    )


def _group_edges(graph: OpGraph, group: NDArray[np.int64]) -> tuple[Edge, ...]:
    merged: dict[tuple[int, int, str, str], Edge] = {}
    for e in graph.edges:
        a, b = int(group[graph.index[e.src]]), int(group[graph.index[e.dst]])
        if a != b:
            key = (a, b, e.tensor, e.phase)
            grad = e.requires_grad or (key in merged and merged[key].requires_grad)
            merged[key] = dataclasses.replace(e, src=f"group{a}", dst=f"group{b}", requires_grad=grad)
    return tuple(merged.values())
