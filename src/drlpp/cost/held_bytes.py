"""The bytes of parameters and tensors that a device of each type holds.

A device that stands for a group holds what all of its members hold together: a parameter that they divide counts once,
one that each has whole counts for each.
"""

from __future__ import annotations

from drlpp.graph import OpGraph
from drlpp.problem import PlanningProblem, per_problem


@per_problem
def held_graphs(problem: PlanningProblem) -> tuple[OpGraph, ...]:
    """The graph with the bytes that a device holds, by device type; the problem's own where nothing is divided."""
    return tuple(problem.graph for _ in problem.cluster.device_types)
