"""What of the gap between a plan and a lower bound may be the bound's own: what it counts, and what it leaves out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from drlpp.cluster import NO_LINK, Cluster
from drlpp.cost.groups import for_groups
from drlpp.errors import InputError
from drlpp.plan import Objective, Plan
from drlpp.planners.base import gap_to
from drlpp.planners.bounds.lower_bound import Bound
from drlpp.planners.search import QUICK_SCHEDULES, is_long
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator

COUNTS: Mapping[str, str] = {
    "work": "it counts all work, shared by all devices without a pause; not transfers, or stages of whole ops",
    "op": "it counts the largest op and the way to it and back; not the other ops, or transfers",
    "path": "it counts one micro-batch on the longest path; not the others, or transfers",
    "fill": "it counts all work on all devices, and the time until it can begin; not transfers, or stages of whole ops",
    "sets": "it counts stages in a row, their transfers and exchanges; not latencies, or ports that are shared",
    "memory": "it counts parameters, gradients and optimizer states",
}
"""Kind of a bound -> what it counts and what it leaves out, for people."""
WITH_TRANSFERS = ("sets",)
"""Kinds that count transfers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """How far a plan is above a lower bound, relative to the bound.

    Attributes:
        whole: all of it.
        transfers: the part that goes where transfers and exchanges of gradients are free; 0 where the bound counts
            them. No plan of a real cluster is without them, but another plan may have fewer.
    """

    whole: float
    transfers: float

    @property
    def rest(self) -> float:
        """What waiting and stages of unequal length make."""
        return self.whole - self.transfers

    def describe(self) -> str:
        """The parts, for people."""
        rest = f"{self.rest:.1%} waiting and uneven stages"
        return f"{self.transfers:.1%} transfers, which it leaves out, {rest}" if self.transfers else rest


def gap_of(plan: Plan, bound: Bound, objective: Objective) -> Gap:
    """The gap of a plan to a bound that is positive and finite.

    Raises:
        InputError: the plan has no prediction.
    """
    if plan.prediction is None:
        raise InputError("the plan has no prediction, so it has no gap: simulate it first")
    whole = gap_to(objective.value_s(plan.prediction), bound.value_s)
    if bound.kind in WITH_TRANSFERS or plan.graph.has_transfer_times:
        return Gap(whole, 0.0)
    free = gap_to(_value_without_transfers_s(plan, objective), bound.value_s)
    return Gap(whole, whole - min(whole, max(0.0, free)))


def _value_without_transfers_s(plan: Plan, objective: Objective) -> float:
    """The objective of the plan's stages under their best schedule, where links between groups are free."""
    alone = for_groups(plan)
    problem = PlanningProblem(alone.graph, _with_free_links(alone.cluster), alone.training, objective)
    assignment = alone.assignment
    schedules = QUICK_SCHEDULES[:1] if is_long(problem, assignment) else None
    return objective.value_s(Evaluator(problem).evaluate(assignment, schedules))


def _with_free_links(cluster: Cluster) -> Cluster:
    hosts = tuple(
        dataclasses.replace(host, link=NO_LINK, links=(), network=None if host.network is None else NO_LINK)
        for host in cluster.hosts
    )
    return dataclasses.replace(cluster, hosts=hosts)
