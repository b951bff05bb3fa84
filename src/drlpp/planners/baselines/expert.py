"""The source's own split: the stages that a profile file gives its ops, as somebody published them.

PipeDream's optimizer writes ``stage_id=`` behind the vertices of a ``graph.txt``. The split stays as it is; stages take
the devices in the order of the hosts, one each. Where there are at least twice as many devices as stages, stages also
get equal numbers of replicas: neighbours, and the same pipeline several times side by side. Where there are fewer,
neighbouring stages share a device. The evaluator picks.
"""

from __future__ import annotations

import numpy as np

from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.search import Search
from drlpp.planners.space.device_orders import folded, host_order
from drlpp.problem import PlanningProblem


def expert_places(problem: PlanningProblem, num_stages: int) -> list[tuple[tuple[int, ...], ...]]:
    """Ways to lay that many stages on the devices: per stage, its devices."""
    order = host_order(problem.cluster)
    if len(order) <= num_stages:
        return [tuple((order[s * len(order) // num_stages],) for s in range(num_stages))]
    places: list[tuple[tuple[int, ...], ...]] = [tuple((d,) for d in order[:num_stages])]
    replicas = len(order) // num_stages
    if replicas > 1 and problem.may_replicate:
        places.append(tuple(order[s * replicas : (s + 1) * replicas] for s in range(num_stages)))
        places.append(folded(order[: replicas * num_stages], replicas))
    return places


class Expert:
    """The split that the source of the graph carries."""

    name = "expert"
    summary = "the split that the profile file carries (stage_id in PipeDream's graph.txt)"

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        given = problem.graph.given_stages
        if not given:
            return PlanResult(
                planner=self.name,
                status="not-applicable",
                plan=None,
                planning_time_s=budget.elapsed_s,
                reason=f"graph {problem.graph.name!r} carries no split of its source: use a profile whose ops have a "
                "stage (stage_id= in PipeDream's graph.txt), or another planner",
            )
        search = Search(self.name, problem, budget, seed, progress)
        stage_of_op = np.array([given[op.name] for op in problem.graph.ops], dtype=np.int64)
        backward = [(a, b) for a, b in problem.graph.arcs.tolist() if stage_of_op[a] > stage_of_op[b]]
        if backward:
            a, b = (problem.graph.ops[i].name for i in backward[0])
            return PlanResult(
                planner=self.name,
                status="not-applicable",
                plan=None,
                planning_time_s=budget.elapsed_s,
                reason=f"the split of graph {problem.graph.name!r} puts op {a!r} in stage {given[a]} and its reader "
                f"{b!r} in the earlier stage {given[b]}: stages must not decrease along an edge",
            )
        for places in expert_places(problem, int(stage_of_op.max()) + 1):
            search.offer(Assignment.compact(stage_of_op, places))
        return search.result()
