"""The micro-batch size as a choice: the best plan of the same step over all sizes, and no better than its bound."""

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, Host, Link, device_preset
from drlpp.graph import Work
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.plan import plan_from_dict, plan_to_dict, validate
from drlpp.planners.base import Budget, no_progress
from drlpp.planners.bounds.lower_bound import lower_bound
from drlpp.planners.consecutive.dynamic_program import DynamicProgram, offer_first_splits
from drlpp.planners.variants import (
    NO_BOUND,
    Variants,
    _Values,
    lower_bound_over_variants,
    solve_over_variants,
    variants_of,
)
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator, simulate
from drlpp.solving import solve
from planner_cases import small_cluster
from random_groups import random_grouped_problem, with_splits

CLUSTER = small_cluster([["fast", "mid"], ["slow"]])


def problem(**options) -> PlanningProblem:
    return PlanningProblem.build(chain_graph(12, param_bytes=4.0), CLUSTER, global_batch=64, **options)


def test_the_best_of_all_sizes_is_found_and_the_step_is_the_same():
    open_problem = problem(micro_batch_sizes=(2, 4, 8, 32))
    result = solve(open_problem, "uniform", budget=20.0)
    alone = {b: solve(open_problem.with_micro_batch_size(b), "uniform", budget=5.0) for b in (2, 4, 8, 32)}
    times = {b: r.plan.prediction.iteration_time_s for b, r in alone.items()}
    assert result.plan.prediction.iteration_time_s == min(times.values())
    size = result.plan.graph.samples_per_microbatch
    assert times[size] == min(times.values())
    assert size * result.plan.num_microbatches == 64
    assert min(lower_bound(v).value_s for v in open_problem.variants) <= min(times.values())


def divided_problem(parallelism: str, **options) -> PlanningProblem:
    """Two ops of much work with large parameters, which groups can divide, on two hosts with two and four devices."""
    graph = with_splits(np.random.default_rng(3), random_graph(np.random.default_rng(3), 3, measured=False))
    work = Work(flop=1e12, bytes=1e6)
    ops = tuple(dataclasses.replace(op, forward=work, input_grad=work, times={}) for op in graph.ops)
    graph = dataclasses.replace(graph, ops=ops, tensor_bytes=dict.fromkeys(graph.tensor_bytes, 1e5))
    device = dataclasses.replace(device_preset("a100-sxm4-80gb"), name="a")
    link, port = Link(bandwidth=2e11), Link(bandwidth=1e9)
    hosts = (
        Host(name="h0", devices=("a",) * 2, link=link, network=port),
        Host(name="h1", devices=("a",) * 4, link=link, network=port),
    )
    cluster = Cluster("two", (device,), hosts)
    return PlanningProblem.build(graph, cluster, **options).with_parallelism(parallelism.split(","))


def test_groupings_have_one_size_on_each_kind_of_host():
    found = Variants(divided_problem("pp,dp,tp", num_microbatches=2)).groupings
    sizes = [tuple(sorted({(g[0] >= 2, len(g)) for g in grouping.groups})) for grouping in found]
    assert sizes[0] == ((False, 1), (True, 1))
    assert len(found) == len(set(sizes)) == 8  # six, and two where half of the larger host has another size
    assert len(Variants(divided_problem("pp,dp", num_microbatches=2)).groupings) == 1
    problem = divided_problem("pp,dp,tp", num_microbatches=2).with_parallelism({"pp", "tp"}, one_degree=True)
    sizes = [{len(group) for group in grouping.groups} for grouping in Variants(problem).groupings]
    assert sizes == [{1}, {2}]


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["uniform", "dp", "piper", "metis", "greedy", "annealing"])
def test_one_micro_batch_is_divided_where_only_that_helps(planner):
    problem = divided_problem("pp,dp,tp", num_microbatches=1)
    alone = solve(divided_problem("pp,dp", num_microbatches=1), planner, budget=2.0)
    result = solve(problem, planner, budget=4.0)
    validate(result.plan)
    assert result.plan.cluster is problem.cluster
    assert any(stage.sharding.tensor > 1 for stage in result.plan.stages)
    fast, slow = result.plan.prediction, alone.plan.prediction
    assert fast.iteration_time_s < 0.9 * slow.iteration_time_s
    assert simulate(result.plan).prediction.iteration_time_s == pytest.approx(fast.iteration_time_s, rel=1e-9)
    assert lower_bound_over_variants(problem).value_s <= fast.iteration_time_s
    assert plan_from_dict(plan_to_dict(result.plan)).stages == result.plan.stages


def test_replicas_divide_states_where_they_may():
    assert solve(divided_problem("pp,dp,zero1", num_microbatches=4), "uniform").plan.training.zero1
    assert not solve(divided_problem("pp,dp", num_microbatches=4), "uniform").plan.training.zero1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_no_bound_is_above_a_plan_of_groups(seed):
    _, _, problem, assignment = random_grouped_problem(seed)
    evaluation = Evaluator(problem).evaluate(assignment)
    if not evaluation.feasible:
        return
    assert lower_bound(problem).value_s <= evaluation.iteration_time_s
    steady = dataclasses.replace(problem, objective="steady-state")
    assert lower_bound(steady, Budget(0.5)).value_s <= evaluation.bottleneck_s


def test_there_is_no_bound_where_the_variants_take_too_long(monkeypatch):
    monkeypatch.setattr("drlpp.planners.variants.BOUND_S", 0.0)
    assert lower_bound_over_variants(divided_problem("pp,dp,tp", num_microbatches=2)) == NO_BOUND


def test_history_counts_from_the_start():
    result = solve_over_variants(DynamicProgram(), problem(), Budget(5.0), 0)
    assert result.planner == "dp"
    assert all(0 <= when <= result.planning_time_s for when, _ in result.history)


def test_no_size_that_fits_is_infeasible_with_its_reason():
    tight = small_cluster([["mid"] * 2], memory="100B")
    graph = chain_graph(6, param_bytes=1e6)
    result = solve(PlanningProblem.build(graph, tight, global_batch=8), "uniform", budget=2.0)
    assert result.status == "infeasible"
    assert result.reason


def test_a_captured_shape_of_cost_prefers_large_micro_batches_where_weights_dominate():
    graph = chain_graph(4, param_bytes=0.0)
    work = [dataclasses.replace(op.forward, flop=1e9, bytes=1e9, fixed_bytes=1e9) for op in graph.ops]
    ops = tuple(dataclasses.replace(op, forward=w, times={}) for op, w in zip(graph.ops, work, strict=True))
    heavy = dataclasses.replace(graph, ops=ops)
    result = solve(PlanningProblem.build(heavy, CLUSTER, micro_batch_sizes=(1, 16), global_batch=16), "uniform")
    assert result.plan.graph.samples_per_microbatch == 16


def test_with_a_spent_budget_one_variant_is_looked_at():
    open_problem = divided_problem("pp,dp,tp", global_batch=64, micro_batch_sizes=(1, 2, 4))
    result = solve(open_problem, "uniform", budget=0.0)
    assert result.status == "ok"
    variants = variants_of(open_problem)
    assert len(variants.groupings) > 2
    assert len(variants._made) == 1


class Asked(DynamicProgram):
    """Notes which problems it is asked about (groups or not, micro-batches), and the part of the budget for each."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bool, int, float]] = []

    def solve(self, problem, budget, seed, progress=no_progress):
        groups = bool(problem.cluster.members.max() > 1)
        self.asked.append((groups, problem.training.num_microbatches, budget.seconds))
        return super().solve(problem, budget, seed, progress)


def test_devices_alone_get_a_fifth_of_the_budget_at_least(monkeypatch):
    """Even where the quick planner has groups far ahead, while no bound rules devices alone out."""
    monkeypatch.setattr("drlpp.planners.variants.lower_bound", lambda *_: NO_BOUND)
    planner = Asked()
    solve_over_variants(planner, divided_problem("pp,dp,tp", num_microbatches=1), Budget(10.0), 0)
    assert planner.asked[0][0]
    assert max(seconds for groups, _, seconds in planner.asked if not groups) >= 2.0


def test_on_unequal_devices_three_variants_are_planned_whatever_the_quick_planners_say(monkeypatch):
    open_problem = problem(micro_batch_sizes=(2, 4, 8, 32))
    monkeypatch.setattr("drlpp.planners.variants.lower_bound", lambda *_: NO_BOUND)
    quick = {2: 10.0, 4: 1.0, 8: 20.0, 32: 30.0}
    monkeypatch.setattr(
        _Values, "ask", lambda self, keys, **_: self.known.update({key: quick[(2, 4, 8, 32)[key[0]]] for key in keys})
    )
    for unequal, first_s in ((False, 20.0), (True, 12.0)):
        planner = Asked()
        monkeypatch.setattr(Variants, "unequal", unequal)
        solve_over_variants(planner, open_problem, Budget(20.0), 0)
        assert [number for _, number, _ in planner.asked] == [16, 32, 8, 2]  # a planner that ends early plans all
        assert planner.asked[0][2] == pytest.approx(first_s, rel=0.1)


def test_the_dynamic_program_is_asked_about_groups_of_two_sizes_on_equal_devices(monkeypatch):
    asked = []

    def noting(search, *args):
        asked.append(search.problem.cluster)
        offer_first_splits(search, *args)

    monkeypatch.setattr("drlpp.planners.variants.offer_first_splits", noting)
    variants = Variants(divided_problem("pp,dp,tp", num_microbatches=2))
    values = _Values(variants, Budget(100.0), 0)
    values.ask((0, grouping) for grouping in range(len(variants.groupings)))
    assert asked
    assert all(len(set(cluster.members.tolist())) > 1 for cluster in asked)
