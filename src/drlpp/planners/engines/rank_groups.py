"""Ways to form the pipeline ranks of an engine: equally many devices each, one of every data-parallel copy."""

from __future__ import annotations

from collections.abc import Iterator

from drlpp.cost.problem_times import problem_times
from drlpp.planners.engines.engine import Engine
from drlpp.problem import PlanningProblem

Ranks = tuple[tuple[int, ...], ...]
"""Per pipeline rank, its devices: one of each copy."""


def rank_groups(problem: PlanningProblem, engine: Engine) -> Iterator[Ranks]:
    """All ways, each in the order of its slowest devices (as `Cluster.subset` numbers them).

    The number of copies divides the micro-batches. Devices of a rank are alike as far as there are enough that are.
    """
    cluster, seen = problem.cluster, set()
    hosts = [[d.id for d in cluster.devices if d.host == h] for h in range(len(cluster.hosts))]
    pools = [h for h in hosts if h] if engine.one_host else [[d.id for d in cluster.devices]]
    for pool in pools:
        for copies in _copy_counts(problem, engine, len(pool)):
            for order in _orders(problem, pool):
                groups = [tuple(sorted(order[k : k + copies])) for k in range(0, len(pool) - copies + 1, copies)]
                ranks = tuple(sorted(groups, key=lambda group: slowest(problem, group)))
                if ranks not in seen:
                    seen.add(ranks)
                    yield ranks


def _copy_counts(problem: PlanningProblem, engine: Engine, num_devices: int) -> list[int]:
    if not engine.replicates or not problem.may_replicate:
        return [1]
    return [r for r in range(1, num_devices + 1) if problem.training.num_microbatches % r == 0]


def _orders(problem: PlanningProblem, pool: list[int]) -> Iterator[list[int]]:
    """Fast devices first, like ones together: neighbours on one host (short gradient exchange), or on several."""
    cluster = problem.cluster
    place = {d.id: sum(e.host == d.host for e in cluster.devices[: d.id]) for d in cluster.devices}

    def key(d: int) -> tuple[float, str]:
        return _seconds(problem, d), cluster.devices[d].type.name

    yield sorted(pool, key=lambda d: (key(d), cluster.devices[d].host, d))
    yield sorted(pool, key=lambda d: (key(d), place[d], d))


def _seconds(problem: PlanningProblem, device: int) -> float:
    return float(problem_times(problem).total_s[problem.cluster.type_index[device]].sum())


def slowest(problem: PlanningProblem, group: tuple[int, ...]) -> int:
    """The device of a group that takes longest for the whole model."""
    return max(group, key=lambda d: (_seconds(problem, d), d))
