"""Exhaustive search on small problems: what no planner beats, and no bound exceeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from drlpp.plan import Assignment, StageSettings
from drlpp.plan.shares import Shares, lowest_terms
from drlpp.planners.variants import Variants
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator

AT_ONCE = 4096


def all_partitions(problem: PlanningProblem) -> Iterator[np.ndarray]:
    """``[num_ops]`` stages of every legal partition into as many stages as there are devices, or fewer."""
    graph = problem.graph
    arcs = graph.arcs.tolist()
    for stages in range(1, min(graph.num_ops, problem.cluster.num_devices) + 1):
        for labels in itertools.product(range(stages), repeat=graph.num_ops):
            if len(set(labels)) == stages and all(labels[a] <= labels[b] for a, b in arcs):
                yield np.array(labels)


def all_placements(num_devices: int, stages: int, *, loops: bool) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every choice of devices for each stage; with `loops` a device may be in several stages."""
    sets = [s for r in range(1, num_devices + 1) for s in itertools.combinations(range(num_devices), r)]
    for chosen in itertools.product(sets, repeat=stages):
        if loops or len(set(itertools.chain(*chosen))) == sum(map(len, chosen)):
            yield chosen


def all_shares(num_replicas: int, num_microbatches: int) -> list[Shares]:
    """Shares that add up to the micro-batches of a step or less, as planners give them; equal ones first."""
    found: dict[Shares, None] = {(): None}
    for shares in itertools.product(range(1, num_microbatches - num_replicas + 2), repeat=num_replicas):
        if sum(shares) <= num_microbatches:
            found[lowest_terms(shares, num_replicas, 0)] = None
    return list(found)


def best_value(problem: PlanningProblem, *, loops: bool) -> float:
    """The least objective in seconds over all partitions, placements and shares; many times that where none fits.

    Raises:
        ValueError: replicas may have unequal shares in the steady state, where there is no end of them.
    """
    if problem.may_share and problem.objective.of_one_microbatch:
        raise ValueError("there is no end of shares in the steady state: give a problem without")
    evaluator = Evaluator(problem)
    number, most = problem.cluster.num_devices, problem.training.num_microbatches if problem.may_share else 0
    shares = [all_shares(r, most) for r in range(number + 1)]
    plans = (
        Assignment(labels, devices, tuple(StageSettings(shares=own) for own in each))
        for labels in all_partitions(problem)
        for devices in all_placements(number, int(labels.max()) + 1, loops=loops)
        for each in itertools.product(*(shares[len(group)] for group in devices))
    )
    chunks = iter(lambda: list(itertools.islice(plans, AT_ONCE)), [])
    return min(float(evaluator.evaluate_many(chunk).scores(problem.objective).min()) for chunk in chunks)


def best_of_variants(problem: PlanningProblem, *, loops: bool) -> dict[tuple[int, int], float]:
    """(micro-batch size, grouping), numbered as in `Variants` -> `best_value` of it."""
    variants = Variants(problem)
    keys = itertools.product(range(len(variants.sizes)), range(len(variants.groupings)))
    return {key: best_value(variants.problem(*key), loops=loops) for key in keys}
