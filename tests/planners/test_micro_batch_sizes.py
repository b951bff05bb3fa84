"""The micro-batch size as a choice: the best plan of the same step over all sizes, and no better than its bound."""

import dataclasses

from drlpp.graph.generate.synthetic import chain_graph
from drlpp.planners.base import Budget
from drlpp.planners.bounds.lower_bound import lower_bound
from drlpp.planners.consecutive.dynamic_program import DynamicProgram
from drlpp.planners.micro_batch_sizes import solve_over_sizes
from drlpp.problem import PlanningProblem
from drlpp.solve import solve
from planner_cases import small_cluster

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


def test_history_counts_from_the_start():
    result = solve_over_sizes(DynamicProgram(), problem(), Budget(5.0), 0)
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
