"""Shares by speed: the best counts against exhaustive search, and which assignments get shares."""

import dataclasses
import itertools
import time

import numpy as np
import pytest

from drlpp.cluster import Cluster, Host, Link, device_preset, load_cluster
from drlpp.cost.problem_times import problem_times
from drlpp.graph.generate.transformers import Transformer, transformer_graph
from drlpp.plan import Objective, StageSettings, validate
from drlpp.plan.assignment import Assignment
from drlpp.plan.settings import AGAIN, PLAIN
from drlpp.plan.shares import microbatches_of_each
from drlpp.planners.base import Budget
from drlpp.planners.registry import get_planner
from drlpp.planners.space.shares import busiest_replica, counts_by_speed, shared, steady_counts, ways_to_share
from drlpp.problem import PlanningProblem
from drlpp.sim import simulate
from planner_cases import small_problem

CLUSTERS = {
    "desktops": "mixed-desktops",
    "8 H100 and 16 A10G": [("h100-sxm5-80gb", 8, 320e9, 100.0), *[("a10g-24gb", 4, 12e9, 40.0)] * 4],
    "2 A100 and 2 V100": [("a100-sxm4-40gb", 2, 200e9, 25.0), ("v100-sxm2-16gb", 2, 45e9, 25.0)],
}
"""A preset, or hosts: device, number, bytes per second inside, Gbit/s of the port."""
UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


def problem_of(objective=Objective.ITERATION_TIME, num_microbatches=8, hosts=UNEQUAL, **space):
    problem = small_problem(1, hosts, objective=objective, num_microbatches=num_microbatches)
    return dataclasses.replace(problem, space=dataclasses.replace(problem.space, **space))


def one_stage(problem, devices=(0, 1, 2, 3)):
    return Assignment(np.zeros(problem.graph.num_ops, dtype=np.int64), (devices,))


@pytest.mark.parametrize("seed", range(30))
def test_counts_end_as_early_as_any(seed):
    rng = np.random.default_rng(seed)
    seconds = rng.choice([0.3, 1.0, 1.7, 4.0, 25.0], size=int(rng.integers(1, 5))).tolist()
    number = int(rng.integers(1, 9))
    counts = counts_by_speed(seconds, number)
    assert sum(counts) == number
    everything = itertools.product(range(number + 1), repeat=len(seconds))
    best = min(max(c * s for c, s in zip(each, seconds, strict=True)) for each in everything if sum(each) == number)
    assert max(c * s for c, s in zip(counts, seconds, strict=True)) == pytest.approx(best, rel=1e-9)


def test_counts_of_equal_replicas_are_those_of_turns():
    assert counts_by_speed([1.0] * 3, 8) == [3, 3, 2]
    assert counts_by_speed([0.0, 0.0], 4) == [2, 2]
    assert counts_by_speed([0.0, 1.0], 4) == [4, 0]


@pytest.mark.parametrize("seed", range(10))
def test_a_steady_round_is_short_and_balanced(seed):
    rng = np.random.default_rng(seed)
    seconds = rng.uniform(0.2, 4.0, size=int(rng.integers(2, 6)))
    counts = np.array(steady_counts(seconds.tolist()))
    assert counts.min() >= 1
    assert counts.sum() <= 32
    assert (counts * seconds).max() / counts.sum() <= 1.12 / (1 / seconds).sum()


def test_shares_are_in_proportion_to_speed():
    problem = problem_of(num_microbatches=18)
    given = shared(problem, one_stage(problem))
    assert microbatches_of_each(given.settings[0].shares, 4, 18) == (8, 4, 2, 4)
    assert [way.key for way in ways_to_share(problem, one_stage(problem))] == [given.key, one_stage(problem).key]


def test_a_device_that_gets_no_micro_batch_leaves_the_stage():
    problem = problem_of(num_microbatches=2)
    assert shared(problem, one_stage(problem)).devices == ((0,),)
    assert shared(problem, one_stage(problem)).settings == (PLAIN,)


def test_shares_that_are_given_stay():
    problem = problem_of()
    given = dataclasses.replace(one_stage(problem), settings=(StageSettings(shares=(1, 1, 1, 2)),))
    assert shared(problem, given) is given
    assert ways_to_share(problem, given)[0] is given
    assert len(ways_to_share(problem, given)) == 1


@pytest.mark.parametrize(
    "problem",
    [
        problem_of(shares=False),
        problem_of(parallelism=frozenset({"pp"})),
        problem_of(hosts=[["mid", "mid"], ["mid", "mid"]]),
    ],
)
def test_nothing_is_shared_where_it_may_not_be_or_devices_are_equal(problem):
    assignment = one_stage(problem)
    assert shared(problem, assignment) is assignment
    assert busiest_replica(problem, (0, 1, 2, 3), by_speed=True)[1:] == (2 / 8, 2 / 8)


def test_the_ops_of_the_stage_decide():
    """Recomputation counts too: shares follow the seconds of the stage on each type."""
    problem = problem_of(num_microbatches=12)
    times = problem_times(problem)
    labels = (np.arange(problem.graph.num_ops) >= problem.graph.num_ops // 2).astype(np.int64)
    given = shared(problem, Assignment(labels, ((0, 1), (3, 2)), (AGAIN, PLAIN)))
    for s, (devices, again) in enumerate(zip(given.devices, (1, 0), strict=True)):
        seconds = (times.total_s + again * times.forward_s)[:, labels == s].sum(axis=1)
        expected = counts_by_speed([seconds[problem.cluster.type_index[d]] for d in devices], 12)
        assert list(microbatches_of_each(given.settings[s].shares, len(devices), 12)) == expected


def test_the_busiest_replica():
    step, steady = problem_of(num_microbatches=18), problem_of(Objective.STEADY_STATE)
    for problem, counts in ((step, [8, 4, 2, 4]), (steady, steady_counts([1.0, 2.0, 4.0, 2.0]))):
        total = sum(counts)
        found = busiest_replica(problem, (0, 1, 2, 3), by_speed=True)
        assert found.share * total in counts
        assert found.largest_share == max(counts) / total
        model_s = problem_times(problem).total_s.sum(axis=1)
        ends = [c * model_s[problem.cluster.type_index[d]] for d, c in enumerate(counts)]
        assert found.share * total * model_s[found.type_index] == pytest.approx(max(ends), rel=1e-6)
    assert busiest_replica(step, (2,), by_speed=True) == (step.cluster.type_index[2], 1.0, 1.0)


def real_problem(name):
    given = CLUSTERS[name]
    if isinstance(given, str):
        cluster = load_cluster(given)
    else:
        types = {preset: device_preset(preset) for preset, *_ in given}
        hosts = [
            Host(
                name=f"h{i}",
                devices=(types[preset].name,) * count,
                link=Link(bandwidth=inside, latency_s=1e-5),
                network=Link(bandwidth=port * 1e9 / 8, latency_s=3e-5),
            )
            for i, (preset, count, inside, port) in enumerate(given)
        ]
        cluster = Cluster("given", tuple(types.values()), tuple(hosts))
    shape = Transformer(layers=3, hidden=1024, heads=16, ffn=4096, vocab=8000, seq=256, batch=4, dtype="float16")
    return PlanningProblem.build(transformer_graph(shape), cluster)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("planner", ["data-parallel", "uniform", "greedy", "dp", "piper"])
def test_plans_are_never_worse_with_shares(cluster, planner):
    problem = real_problem(cluster)
    equal = problem.with_parallelism(problem.space.parallelism, shares=False)
    found = [get_planner(planner).solve(p, Budget(60, time.process_time), 0).plan for p in (problem, equal)]
    for plan in found:
        validate(plan)
    assert found[0].prediction.iteration_time_s <= found[1].prediction.iteration_time_s * (1 + 1e-9)
    assert not any(stage.settings.shares for stage in found[1].stages)
    if planner == "data-parallel":
        assert found[0].stages[0].settings.shares
        assert simulate(found[0]).prediction.iteration_time_s == pytest.approx(found[0].prediction.iteration_time_s)
