"""What is said where there is no plan: only what is known."""

from __future__ import annotations

import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.planners.base import Budget
from drlpp.planners.misses import miss, nearest_simple, not_found, proof_that_none_fits
from drlpp.planners.registry import get_planner
from drlpp.problem import PlanningProblem
from drlpp.solving import solve
from layered_graphs import decoder_graph


def problem_with(memory: int, devices: int = 4, layers: int = 8) -> PlanningProblem:
    host = Host(name="a", devices=("t",) * devices, link=Link(bandwidth=1e10))
    cluster = Cluster("equal", (DeviceType(name="t", memory_bytes=memory),), (host,))
    return PlanningProblem.build(decoder_graph(layers), cluster, num_microbatches=8, optimizer="adamw")


def test_what_cannot_fit_is_proven():
    problem = problem_with(300 * 10**6)  # 19 parameters of 20 MB, four times with gradients and states of AdamW
    assert "take 1.52 GB, and the devices of 'equal' together have 1.2 GB" in proof_that_none_fits(problem)
    assert miss(problem, "dp", None, Budget(1.0)) == proof_that_none_fits(problem)
    assert proof_that_none_fits(problem_with(400 * 10**6)) == ""


def test_an_op_that_no_device_can_hold_is_proven():
    """The devices together could hold the model, and a host's group of all of them this op."""
    problem = problem_with(70 * 10**6, devices=32)
    assert "parameters, gradients and optimizer states of op" in proof_that_none_fits(problem)
    assert "alone take 80 MB, and the largest device of 'equal' has 70 MB" in proof_that_none_fits(problem)
    assert proof_that_none_fits(problem.with_parallelism(frozenset({"pp", "dp", "tp"}))) == ""
    assert proof_that_none_fits(problem.with_parallelism(frozenset({"pp", "dp", "zero1"}))) == ""  # 20 + 20 + 40 / 32
    assert proof_that_none_fits(problem_with(80 * 10**6, devices=32)) == ""


@pytest.mark.parametrize("planner", ["drl", "uniform", "dp"])
def test_a_proof_is_told_before_any_search_and_speaks_of_devices_not_groups(planner):
    problem = problem_with(300 * 10**6).with_parallelism(frozenset({"pp", "dp", "tp"}))
    result = solve(problem, planner, budget=30.0)
    assert result.reason == proof_that_none_fits(problem)
    assert result.planning_time_s < 1.0


def test_a_planner_that_finds_none_where_there_is_one_says_so():
    problem = problem_with(10**9)
    assert nearest_simple(problem).feasible
    assert "dp found no plan that fits the memory, but there are some" in miss(problem, "dp", None, Budget(1.0))


def test_the_nearest_is_near_and_nothing_more_is_claimed():
    problem = problem_with(385 * 10**6)
    nearest = nearest_simple(problem)
    assert not nearest.feasible
    text = miss(problem, "dp", None, Budget(1.0))
    assert text.startswith("dp found no plan that fits the memory, and did not prove that there is none: the nearest")
    assert "give it more seconds" in miss(problem, "dp", None, Budget(0.0))
    assert "found no plan, and did not prove" in not_found(problem, "dp", None, Budget(1.0))


def test_planners_give_the_reason():
    result = solve(problem_with(300 * 10**6), get_planner("uniform"), budget=1.0)
    assert result.status == "infeasible"
    assert result.reason.startswith("no plan can fit the memory")
