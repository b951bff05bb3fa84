"""The problem that the policy decides on: the same costs, with the ops of a large graph contracted into groups.

Any partition of the groups costs what the same partition of the ops costs (`drlpp.graph.contract`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.problem_times import problem_times
from drlpp.cost.shared_graphs import contracted
from drlpp.graph.coarsen import coarsen
from drlpp.graph.contract import contract
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
    graph, table = problem.graph, problem_times(problem)
    if graph.num_ops <= max_groups:
        return CoarseProblem(problem, np.arange(graph.num_ops))
    group = coarsen(graph, max_groups, table.total_s.mean(axis=0))
    coarse = contract(graph, group, table.by_type(problem.cluster), f"{graph.name}-coarse")
    return CoarseProblem(contracted(problem, coarse), group)
