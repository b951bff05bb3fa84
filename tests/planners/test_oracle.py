"""Where groups may divide ops, exhaustive search says what the best plan is: over groupings, partitions, placements."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from drlpp.cluster import Cluster, Host, Link, device_preset
from drlpp.cluster.grouping import Grouping
from drlpp.cost.groups import grouped
from drlpp.graph import OpGraph, Work
from drlpp.graph.generate.synthetic import random_graph
from drlpp.planners.variants import lower_bound_over_variants
from drlpp.problem import PlanningProblem
from drlpp.sim import simulate
from drlpp.solving import solve
from oracle import best_of_variants, best_value
from random_groups import with_splits

HOSTS = (("a",) * 4,), (("a", "a"), ("b", "b")), (("a", "a"), ("b",)), (("a", "a", "b"),), (("a", "b", "b", "a"),)
SEEDS = [0, 1, 5, 7, 10, 15, 16, 19, 21, 22]
"""Of problems; groups are best in most of them."""
QUICK = ["uniform", "greedy", "dp", "piper", "metis", "data-parallel"]


def heavy_graph(rng: np.random.Generator) -> OpGraph:
    """Three or four ops with splits, whose work takes about as long as exchanging their gradients."""
    graph = with_splits(rng, random_graph(rng, int(rng.integers(3, 5)), branching=0.5, measured=False))
    ops = []
    for op in graph.ops:
        work = Work(flop=float(rng.lognormal(math.log(3e12), 1.0)), bytes=1e6)
        ops.append(dataclasses.replace(op, forward=work, input_grad=work, weight_grad=work if op.params else Work()))
    large = {name: 30 * size for name, size in graph.param_bytes.items()}
    return dataclasses.replace(graph, ops=tuple(ops), param_bytes=large)


def small_problem(seed: int) -> PlanningProblem:
    """Three or four devices on one or two hosts, where groups may divide ops."""
    rng = np.random.default_rng(seed)
    types = tuple(
        dataclasses.replace(device_preset(preset), name=name)
        for name, preset in (("a", "a100-sxm4-80gb"), ("b", "v100-sxm2-16gb"))
    )
    hosts = tuple(
        Host(
            name=f"h{h}",
            devices=devices,
            link=Link(bandwidth=float(rng.choice([1e10, 1e11]))),
            network=Link(bandwidth=float(rng.choice([1e8, 1e9, 1e10]))),
        )
        for h, devices in enumerate(HOSTS[seed % len(HOSTS)])
    )
    objective = ("iteration-time", "iteration-time", "steady-state")[seed % 3]
    problem = PlanningProblem.build(
        heavy_graph(rng),
        Cluster("small", types if len({d for h in hosts for d in h.devices}) > 1 else types[:1], hosts),
        num_microbatches=int(rng.integers(1, 4)),
        objective=objective,
    )
    parallelism = "pp", "dp", "tp", *(("sp",) if seed % 2 else ()), *(("zero1",) if seed % 4 < 2 else ())
    return problem.with_parallelism(parallelism, shares=objective == "iteration-time")


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_no_planner_beats_exhaustive_search_and_no_bound_is_above_it(seed: int) -> None:
    problem = small_problem(seed)
    best = min(best_of_variants(problem, loops=True).values())
    assert math.isfinite(best)
    assert lower_bound_over_variants(problem).value_s <= best * (1 + 1e-9)
    found = {}
    for planner in QUICK:
        if (plan := solve(problem, planner, budget=0.5).plan) is not None:
            found[planner] = problem.objective.value_s(simulate(plan).prediction)
            assert found[planner] >= best * (1 - 1e-9), planner
    assert len(found) >= len(QUICK) - 1
    assert min(found.values()) <= 1.3 * best


def all_groupings(cluster: Cluster) -> Iterator[Grouping]:
    """All groups of one, two or four devices of a host and type, in which alike devices are in order."""
    alike: dict[tuple[int, str], list[int]] = {}
    for device in cluster.devices:
        alike.setdefault((device.host, device.type.name), []).append(device.id)

    def cuts(devices: list[int], most: int) -> Iterator[tuple[tuple[int, ...], ...]]:
        if not devices:
            yield ()
        for size in (n for n in (1, 2, 4) if n <= min(most, len(devices))):
            yield from ((tuple(devices[:size]), *rest) for rest in cuts(devices[size:], size))

    for chosen in itertools.product(*(list(cuts(devices, 4)) for devices in alike.values())):
        yield Grouping(tuple(itertools.chain(*chosen)))


@pytest.mark.parametrize("seed", [3, 13, 18, 28, 33, 0, 1])
def test_the_groupings_searched_have_the_best_of_all(seed: int) -> None:
    problem = small_problem(seed)
    sequence = "sp" in problem.space.parallelism
    every = [
        best_value(grouped(problem, grouping, sequence=sequence), loops=False)
        for grouping in all_groupings(problem.cluster)
    ]
    assert min(best_of_variants(problem, loops=False).values()) == pytest.approx(min(every), rel=1e-9)


@pytest.mark.parametrize("seed", [3, 13, 18, 33])
def test_hosts_of_mixed_types_are_grouped_by_type_where_that_is_best(seed: int) -> None:
    problem = small_problem(seed)
    result = solve(problem, "dp", budget=4.0)
    assert problem.objective.value_s(result.plan.prediction) <= 1.01 * min(
        best_of_variants(problem, loops=False).values()
    )
    assert any(stage.sharding.tensor > 1 for stage in result.plan.stages)


def test_groups_are_best_in_most_of_the_problems() -> None:
    """Else the tests here would say little."""
    best = [best_of_variants(small_problem(seed), loops=False) for seed in SEEDS]
    assert sum(min(found, key=found.__getitem__)[1] > 0 for found in best) > len(SEEDS) / 2


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["annealing", "drl"])
@pytest.mark.parametrize("seed", [1, 7, 19, 22])
def test_search_finds_the_best_plan_in_which_every_device_has_one_stage(seed: int, planner: str) -> None:
    problem = small_problem(seed)
    best = min(best_of_variants(problem, loops=False).values())
    result = solve(problem, planner, budget=2.0)
    assert problem.objective.value_s(result.plan.prediction) <= 1.05 * best


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 10, 15, 21, 54])
def test_a_plan_that_may_have_groups_is_never_worse_than_one_without(seed: int) -> None:
    problem = small_problem(seed)
    if not problem.objective.of_one_microbatch:
        samples = problem.graph.samples_per_microbatch
        problem = PlanningProblem.build(
            problem.graph,
            problem.cluster,
            global_batch=8 * samples,
            micro_batch_sizes=[samples, 2 * samples, 4 * samples],
        ).with_parallelism(problem.space.parallelism)
    alone = problem.with_parallelism(problem.space.parallelism - {"tp", "sp"})
    for planner in QUICK:
        without, plan = (solve(p, planner, budget=1.0).plan for p in (alone, problem))
        if without is not None:
            value = problem.objective.value_s
            assert value(plan.prediction) <= value(without.prediction) * (1 + 1e-9), planner
