import math

import numpy as np
import pytest
from planner_cases import chain_problem, levels_cluster, profile, small_cluster, small_problem

from drlpp.cost import all_reduce_s
from drlpp.graph.synthetic import chain_graph
from drlpp.planners.base import Budget
from drlpp.planners.bounds import Bound, exchange_s_per_byte, gap, lower_bound
from drlpp.planners.dynamic_program import DynamicProgram
from drlpp.problem import PlanningProblem


def test_work_is_divided_by_the_sum_of_the_speeds():
    problem = chain_problem(21, [["fast", "mid", "slow"]])
    assert lower_bound(problem).value_s == pytest.approx(21 * 3e-3 / 3.5, rel=1e-5)


def test_a_step_takes_all_micro_batches():
    problem = chain_problem(21, [["fast", "mid", "slow"]], objective="iteration-time")
    assert lower_bound(problem).value_s == pytest.approx(8 * 21 * 3e-3 / 3.5, rel=1e-5)


def test_one_micro_batch_takes_the_longest_path():
    cluster = small_cluster([["mid"] * 4])
    problem = PlanningProblem.build(chain_graph(6), cluster, num_microbatches=1)
    bound = lower_bound(problem)
    assert bound.value_s <= 6 * 3e-3
    assert bound.value_s >= 6 * 2e-3 * (1 - 1e-6)  # weight gradients may wait


def test_gradients_keep_a_large_op_from_being_divided():
    graph = chain_graph(1, forward_s=0.1, param_bytes=1e9)
    problem = PlanningProblem.build(
        graph, small_cluster([["mid"] * 4], link="1GB/s"), num_microbatches=1, objective="steady-state"
    )
    bound = lower_bound(problem)
    assert bound.value_s == pytest.approx(0.3)  # one device: any exchange takes longer than it saves


def test_memory_that_cannot_hold_the_parameters_gives_an_infinite_bound():
    graph = chain_graph(4, param_bytes=1e9)
    problem = PlanningProblem.build(graph, small_cluster([["mid"] * 2], memory="1GB"))
    assert lower_bound(problem) == Bound(math.inf, "memory")


def test_exchange_is_never_more_than_a_real_all_reduce():
    cluster = small_cluster([["mid"] * 3, ["mid"] * 2, ["mid"]])
    least = exchange_s_per_byte(cluster)
    assert (np.diff(least) >= 0).all()
    rng = np.random.default_rng(0)
    for _ in range(200):
        devices = rng.permutation(6)[: int(rng.integers(1, 7))].tolist()
        assert least[len(devices)] * 1e9 <= all_reduce_s(cluster, devices, 1e9) * (1 + 1e-12)


def test_a_spent_budget_skips_the_bound_by_cuts():
    problem = small_problem(0, [["mid"] * 3], num_ops=10)
    assert lower_bound(problem, Budget(0)).kind in ("work", "op")
    assert lower_bound(problem, Budget(0)).value_s <= lower_bound(problem).value_s


def test_gap():
    assert gap(1.1, Bound(1.0, "work")) == pytest.approx(0.1)
    assert gap(1.0, Bound(0.0, "work")) == math.inf


@pytest.mark.parametrize(
    ("name", "machines"), [("resnet18", 4), ("resnet50", 8), ("densenet121", 4), ("densenet121", 8)]
)
def test_gap_on_profiles_with_equal_devices(name, machines):
    problem = PlanningProblem.build(profile(name), levels_cluster(machines, 1e10), objective="steady-state")
    plan = DynamicProgram().solve(problem, Budget(20), 0).plan
    assert 0 <= gap(plan.prediction.bottleneck_s, lower_bound(problem)) < 0.02
