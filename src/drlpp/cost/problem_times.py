"""Seconds of every op of a problem on every device type, those included that stand for groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import DeviceType
from drlpp.cost.op_times import OpTimeTable, busy_factor, device_times
from drlpp.cost.shared_graphs import shared_graph
from drlpp.problem import PlanningProblem, per_problem


@per_problem
def problem_times(problem: PlanningProblem) -> OpTimeTable:
    """Seconds of every op of a problem on every device type of its cluster.

    For a group it is what each member takes, with the collectives inside the group: those of a pass in the pass, and
    the sums of gradients, which come once per step, in equal parts in the weight gradients of all micro-batches.
    """
    table = np.array([_times(problem, device) for device in problem.cluster.device_types])  # [K, N, 3]
    return OpTimeTable(*(np.ascontiguousarray(table[:, :, i]) for i in range(3)))


def _times(problem: PlanningProblem, device: DeviceType) -> NDArray[np.float64]:
    if device.group is None or problem.graph.has_times_of(device.name):  # a contracted graph has the sums of its ops
        return busy_factor(problem.graph, problem.cluster, device) * device_times(problem.graph, device)
    shared = shared_graph(problem, device.group)
    own = device_times(shared.graph, device.group.member)
    inside = (shared.forward_s, shared.input_grad_s, shared.step_s / problem.training.num_microbatches)
    return own + np.stack(inside, axis=1)
