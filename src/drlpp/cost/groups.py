"""Problems and plans in which groups of devices divide ops: each group is one device of an ordinary problem.

Planners, schedules, simulator and bounds work on the grouped problem as it is. `lifted` makes a plan for the devices
from a plan for the groups, and `for_groups` the other way round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from drlpp.cluster import Cluster
from drlpp.cluster.grouping import Grouping, grouped_cluster
from drlpp.cost.shared_graphs import keep_shared_graphs
from drlpp.plan import Plan, Prediction, Sharding, Stage, TraceEvent
from drlpp.problem import PlanningProblem


def grouped(problem: PlanningProblem, grouping: Grouping, *, sequence: bool) -> PlanningProblem:
    """The same problem with one device for each group.

    Raises:
        ClusterError: these are no groups of the devices.
    """
    cluster = grouped_cluster(problem.cluster, grouping, sequence=sequence)
    if cluster is problem.cluster:
        return problem
    made = dataclasses.replace(problem, cluster=cluster)
    keep_shared_graphs(problem, made)
    return made


def lifted(plan: Plan, cluster: Cluster, grouping: Grouping) -> Plan:
    """A plan for the devices of a cluster, from one for their groups."""
    groups = grouping.groups
    if plan.cluster is cluster:
        return plan
    prediction = plan.prediction
    return dataclasses.replace(
        plan,
        cluster=cluster,
        stages=tuple(_lifted_stage(stage, plan.cluster, grouping) for stage in plan.stages),
        schedule={d: actions for g, actions in plan.schedule.items() for d in groups[g]},
        prediction=None if prediction is None else lifted_prediction(prediction, grouping),
    )


def _lifted_stage(stage: Stage, cluster: Cluster, grouping: Grouping) -> Stage:
    group = cluster.devices[stage.devices[0]].type.group
    sharding = Sharding() if group is None else Sharding(tensor=group.size, sequence=group.sequence)
    return dataclasses.replace(stage, replicas=tuple(grouping.groups[g] for g in stage.devices), sharding=sharding)


def lifted_prediction(prediction: Prediction, grouping: Grouping) -> Prediction:
    """What is predicted of the devices, from what is predicted of their groups: members are alike."""
    number = {d: g for g, group in enumerate(grouping.groups) for d in group}
    of = [number[d] for d in sorted(number)]
    return dataclasses.replace(
        prediction,
        peak_memory_bytes=tuple(prediction.peak_memory_bytes[g] / len(grouping.groups[g]) for g in of),
        bubble_fraction=tuple(prediction.bubble_fraction[g] for g in of),
    )


def pairs_of_members(src: Sequence[int], dst: Sequence[int]) -> list[tuple[int, int]]:
    """Who of a group sends to whom of another: every member of the larger group once."""
    number = max(len(src), len(dst))
    return [(src[i % len(src)], dst[i % len(dst)]) for i in range(number)]


def lifted_events(events: Iterable[TraceEvent], grouping: Grouping) -> tuple[TraceEvent, ...]:
    """What the devices do, from what their groups do: members do the same, and each sends its part."""
    made = (member for event in events for member in _of_members(event, grouping.groups))
    return tuple(sorted(made, key=lambda e: (e.start_s, e.device, e.stream)))


def _of_members(event: TraceEvent, groups: tuple[tuple[int, ...], ...]) -> Iterator[TraceEvent]:
    own = groups[event.device]
    if not event.stream.startswith("link:"):
        for d in own:
            yield dataclasses.replace(event, device=d, bytes=event.bytes / len(own))
        return
    pairs = pairs_of_members(own, groups[event.receiver])
    for u, v in pairs:
        yield dataclasses.replace(event, device=u, stream=f"link:{u}->{v}", bytes=event.bytes / len(pairs))


def for_groups(plan: Plan) -> Plan:
    """The plan with one device for each group of `Plan.grouping`; itself where nothing is divided."""
    grouping = plan.grouping
    if not grouping.divides:
        return plan
    sequence = any(stage.sharding.sequence for stage in plan.stages)
    number = {group: g for g, group in enumerate(grouping.groups)}
    return dataclasses.replace(
        plan,
        cluster=grouped_cluster(plan.cluster, grouping, sequence=sequence),
        stages=tuple(
            dataclasses.replace(s, replicas=tuple((number[g],) for g in s.replicas), sharding=Sharding())
            for s in plan.stages
        ),
        schedule={number[g]: plan.schedule[g[0]] for g in grouping.groups if g[0] in plan.schedule},
        prediction=None,
    )
