"""Prices of plans in which groups of devices divide ops, part by part, and on clusters that the plan does not know.

How a group divides ops was chosen with the costs that the plan believes. On other devices the choice stays, and its
price is theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster, Link
from drlpp.cluster.grouping import grouped_cluster
from drlpp.cost.groups import for_groups
from drlpp.cost.problem_times import problem_times
from drlpp.cost.sharding import ShardedGraph, repriced
from drlpp.cost.shared_graphs import shared_graph, use_shared_graph
from drlpp.cost.stage_costs import StageCosts, stage_costs
from drlpp.errors import InputError
from drlpp.plan import Plan
from drlpp.problem import PlanningProblem

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class DividedPlan:
    """A plan as its groups run it; one without groups is a case of it. `divided` makes it.

    Attributes:
        plan: with one device for each group.
        problem: of these, which knows how the groups divide ops.
        costs: of the plan's stages.
        group_of: device -> the device that stands for its group.
    """

    plan: Plan
    problem: PlanningProblem
    costs: StageCosts
    group_of: dict[int, int]

    def own_s(self) -> Floats:
        """``[3, num_device_types, num_ops]`` seconds of forward, input gradient and weight gradient on a member."""
        times = problem_times(self.problem)
        return np.stack([times.forward_s, times.input_grad_s, times.weight_grad_s]) - self.inside_s()

    def inside_s(self, changed: Callable[[Link], Link] | None = None) -> Floats:
        """The same of collectives inside groups; those that come once per step are divided by the micro-batches.

        Args:
            changed: gives the links inside the groups; None leaves them.
        """
        kinds, number = self.problem.cluster.device_types, self.problem.training.num_microbatches
        out = np.zeros((3, len(kinds), self.problem.graph.num_ops))
        for k, kind in enumerate(kinds):
            if kind.group is None:
                continue
            shared = shared_graph(self.problem, kind.group)
            if changed is not None:
                link = changed(kind.group.link)
                shared = repriced(shared, self.problem.graph, kind.group.member, link, num_microbatches=number)
            out[:, k] = shared.forward_s, shared.input_grad_s, shared.step_s / number
        return out

    def inside_parts(self) -> tuple[Floats, Floats, Floats]:
        """What of `inside_s` grows with the links' seconds per byte, with their latency, and with neither."""
        without = self.inside_s(lambda link: dataclasses.replace(link, latency_s=0.0))
        wire = self.inside_s(lambda link: Link(bandwidth=link.bandwidth))
        return wire, self.inside_s() - without, without - wire

    def by_stage(self, table: Floats) -> Floats:
        """``[3, num_device_types, num_ops]`` -> ``[3, S, D]`` sums of each stage on each device."""
        number, stages = self.plan.num_stages, self.plan.stage_of_op
        sums = np.array([[np.bincount(stages, row, number) for row in part] for part in table])
        return np.ascontiguousarray(sums[:, self.plan.cluster.type_index].swapaxes(1, 2))


def divided(plan: Plan, cluster: Cluster | None = None) -> DividedPlan:
    """A plan as its groups run it.

    Args:
        plan: for devices.
        cluster: with the same devices, whose costs may be others than the plan believes; None: that of the plan.

    Raises:
        ClusterError: the devices of a group are no group on that cluster.
        InputError: groups that are alike there divide ops in several ways.
    """
    made = for_groups(plan)
    grouping = plan.grouping
    group_of = {d: g for g, group in enumerate(grouping.groups) for d in group}
    believed = PlanningProblem(plan.graph, made.cluster, plan.training)
    if cluster is None:
        problem = believed
    elif not grouping.divides:
        made = dataclasses.replace(made, cluster=cluster)
        problem = PlanningProblem(plan.graph, cluster, plan.training)
    else:
        sequence = any(stage.sharding.sequence for stage in plan.stages)
        made = dataclasses.replace(made, cluster=grouped_cluster(cluster, grouping, sequence=sequence))
        problem = PlanningProblem(plan.graph, made.cluster, plan.training)
        _keep_choices(believed, problem)
    assignment = made.assignment
    costs = stage_costs(problem, assignment.stage_of_op, assignment.num_stages, assignment.settings)
    return DividedPlan(made, problem, costs, group_of)


def _keep_choices(believed: PlanningProblem, real: PlanningProblem) -> None:
    """Has the groups of `real` divide ops as those of `believed` do."""
    taken: dict[str, tuple[int, ShardedGraph]] = {}
    for a, b in zip(believed.cluster.devices, real.cluster.devices, strict=True):
        if a.type.group is None or b.type.group is None:
            continue
        shared = shared_graph(believed, a.type.group)
        other, known = taken.setdefault(b.type.name, (a.id, shared))
        if known.choice != shared.choice:
            raise InputError(
                f"groups {other} and {a.id} are alike on cluster {real.cluster.name!r} and divide ops in two ways in "
                "the plan: give their devices types of two names"
            )
        group = b.type.group
        number = real.training.num_microbatches
        use_shared_graph(real, group, repriced(shared, real.graph, group.member, group.link, num_microbatches=number))
