import dataclasses

import numpy as np
import pytest

from drlpp.graph import Edge, Op, OpGraph
from drlpp.graph.op_graph import REFERENCE, OpTimes
from drlpp.graph.readers import read_graph
from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.baselines.data_parallel import data_parallel_assignment
from drlpp.planners.consecutive.dynamic_program import DynamicProgram, offer_first_splits
from drlpp.planners.consecutive.pipedream_contracted import PipeDreamContracted
from drlpp.planners.pipedream.planner import PipeDream
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from planner_cases import (
    all_chain_splits,
    chain_problem,
    data_file,
    levels_cluster,
    profile,
    small_cluster,
    small_problem,
)

# Largest load in ms: the exact contiguous optimum of "Efficient Algorithms for Device Placement of DNN Graph Operators"
# (NeurIPS 2020); it may use the machine's CPU too, ten times slower than an accelerator.
PUBLISHED = [
    ("bert24_training", 6, 41.746),
    ("resnet50_training", 6, 78.632),
    ("bert_l-3_inference", 3, 27.919),
    ("bert_l-3_training", 3, 65.303),
]


def best_of_all(problem, *, replicate):
    evaluator = Evaluator(problem)
    return min(evaluator.bottleneck_s(a) for a in all_chain_splits(problem, replicate=replicate))


def solved(problem, planner=None, seconds=20.0):
    result = (planner or DynamicProgram()).solve(problem, Budget(seconds), 0)
    assert result.status == "ok"
    validate(result.plan)
    return result.plan.prediction


@pytest.mark.parametrize("seed", range(6))
def test_equals_exhaustive_search_on_equal_devices(seed):
    problem = small_problem(seed, [["mid"] * 3], num_ops=7, chain=True)
    assert solved(problem).bottleneck_s == pytest.approx(best_of_all(problem, replicate=True), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_equals_exhaustive_search_on_unequal_devices_without_transfers(seed):
    problem = small_problem(seed, [["fast", "slow", "mid"]], num_ops=6, chain=True, link="1000TB/s", network="1000TB/s")
    exhaustive = best_of_all(problem, replicate=False)
    assert solved(problem).bottleneck_s <= exhaustive * (1 + 1e-6)


def chain_with_sides(rng: np.random.Generator, num: int, *, sides: bool) -> OpGraph:
    """A chain whose transfers are dear; with its parameters before all of it, and its statistics after it."""
    ops = [(f"op{i}", rng.uniform(0.5, 1.0)) for i in range(num)]
    links = [(f"op{i}", f"op{i + 1}", rng.uniform(0.2, 1.0)) for i in range(num - 1)]
    if sides:
        ops = [(f"in{i}", 0.0) for i in rng.permutation(num)] + ops + [(f"out{i}", 0.0) for i in rng.permutation(num)]
        links += [(f"in{i}", f"op{i}", 0.3) for i in range(num)] + [(f"op{i}", f"out{i}", 0.3) for i in range(num)]
    return OpGraph(
        name="chain",
        ops=tuple(Op(name=name, kind="op", times={REFERENCE: OpTimes(seconds, 0.0)}) for name, seconds in ops),
        edges=tuple(
            Edge(src=a, dst=b, tensor=f"{a}{b}", requires_grad=False, transfer_s=seconds) for a, b, seconds in links
        ),
        tensor_bytes={f"{a}{b}": 0.0 for a, b, _ in links},
    )


@pytest.mark.parametrize("seed", range(3))
def test_side_inputs_and_outputs_do_not_hide_the_best_chain(seed):
    plain, sides = (
        solved(
            PlanningProblem.build(
                chain_with_sides(np.random.default_rng(seed), 16, sides=sides),
                small_cluster([["mid"] * 4]),
                objective="steady-state",
            )
        ).bottleneck_s
        for sides in (False, True)
    )
    assert sides <= plain * (1 + 1e-9)


@pytest.mark.parametrize(("name", "accelerators", "milliseconds"), PUBLISHED)
def test_equals_the_published_contiguous_optimum(name, accelerators, milliseconds):
    graph = read_graph(data_file("dnn-partitioning", f"{name}.json"))
    cluster = small_cluster([["mid"] * accelerators + ["slow"]])
    cpu = dataclasses.replace(cluster.device_types[2], speed=0.1)
    cluster = dataclasses.replace(cluster, device_types=(*cluster.device_types[:2], cpu))
    problem = PlanningProblem.build(graph, cluster, objective="steady-state")
    assert solved(problem).bottleneck_s * 1e3 == pytest.approx(milliseconds, abs=1e-3)


@pytest.mark.parametrize("name", ["alexnet", "gnmt", "resnet50", "vgg16", "densenet121"])
@pytest.mark.parametrize(("machines", "bandwidth"), [(4, 1e9), (8, 1e9), (16, 1e10), ([4, 4], [1e10, 1e9])])
def test_never_worse_than_pipedream(name, machines, bandwidth):
    problem = PlanningProblem.build(profile(name), levels_cluster(machines, bandwidth), objective="steady-state")
    theirs = solved(problem, PipeDream()).bottleneck_s
    assert solved(problem).bottleneck_s <= theirs * (1 + 1e-9)


def test_chain_of_equal_ops():
    assert solved(chain_problem(12, [["mid"] * 4])).bottleneck_s == pytest.approx(9e-3)


def test_a_device_of_double_speed_gets_double_work():
    problem = chain_problem(9, [["fast", "mid"]])
    assert solved(problem).bottleneck_s == pytest.approx(9e-3)


def test_iteration_time_is_not_worse_than_data_parallelism_or_the_bottleneck_plan():
    for seed in range(4):
        problem = small_problem(seed, [["fast", "mid"], ["slow", "mid"]], num_ops=20, objective="iteration-time")
        prediction = solved(problem)
        whole = Evaluator(problem).evaluate(data_parallel_assignment(problem))
        assert prediction.iteration_time_s <= whole.iteration_time_s * (1 + 1e-9)


def test_memory_limits_the_plan():
    roomy = small_problem(5, [["mid"] * 3], num_ops=12)
    peak = max(solved(roomy).peak_memory_bytes)
    tight = small_problem(5, [["mid"] * 3], num_ops=12, memory=f"{int(peak * 0.9)}B")
    prediction = solved(tight)
    assert max(prediction.peak_memory_bytes) <= peak * 0.9
    assert prediction.bottleneck_s >= solved(roomy).bottleneck_s


def test_contraction_keeps_branches_together():
    problem = small_problem(6, [["mid"] * 4], num_ops=30)
    plain, contracted = solved(problem), solved(problem, PipeDreamContracted())
    assert plain.bottleneck_s <= contracted.bottleneck_s * (1 + 1e-9)


def test_same_seed_same_plan():
    problem = small_problem(7, [["fast", "mid"], ["slow"]], num_ops=25, objective="iteration-time")
    plans = [DynamicProgram().solve(problem, Budget(60), 3).plan for _ in range(2)]
    assert np.array_equal(plans[0].stage_of_op, plans[1].stage_of_op)
    assert [s.devices for s in plans[0].stages] == [s.devices for s in plans[1].stages]


def test_a_quick_look_offers_the_first_splits_alone():
    problem = small_problem(0, [["fast", "mid"], ["slow", "mid"]], num_ops=7, chain=True)
    found = {}
    for number in (1, 2, 100):
        search = Search("quick", problem, Budget(20.0), 0)
        offer_first_splits(search, np.random.default_rng(0), number)
        found[number] = search.num_offers, search.best_value
    offers, values = zip(*found.values(), strict=True)
    assert 1 <= offers[0] <= offers[1] <= offers[2]
    assert values[0] >= values[1] >= values[2] >= solved(problem).bottleneck_s
