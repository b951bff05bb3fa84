"""milp, dapple, piper and metis."""

import builtins

import numpy as np
import pytest

from drlpp.errors import InputError
from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.consecutive.dapple import Dapple, scatter_order
from drlpp.planners.consecutive.dynamic_program import DynamicProgram
from drlpp.planners.consecutive.metis import Metis
from drlpp.planners.consecutive.milp import Milp
from drlpp.planners.consecutive.piper import Piper
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from planner_cases import all_chain_splits, chain_problem, levels_cluster, profile, small_problem

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


@pytest.mark.parametrize("seed", range(3))
def test_milp_is_never_worse_than_the_dynamic_program(seed):
    problem = small_problem(seed, [["mid"] * 3], num_ops=12)
    plain = DynamicProgram().solve(problem, Budget(10), 0).plan.prediction.bottleneck_s
    result = Milp().solve(problem, Budget(3), 0)
    validate(result.plan)
    assert result.plan.prediction.bottleneck_s <= plain * (1 + 1e-9)


def test_milp_finds_the_optimum_of_a_chain():
    problem = chain_problem(9, [["mid"] * 3])
    assert Milp().solve(problem, Budget(5), 0).plan.prediction.bottleneck_s == pytest.approx(9e-3)


def test_milp_says_what_it_needs(monkeypatch):
    real = builtins.__import__

    def without_highspy(name, *args, **kwargs):
        if name == "highspy":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_highspy)
    with pytest.raises(InputError, match=r"drlpp\[solvers\]"):
        Milp().solve(small_problem(0, UNEQUAL), Budget(1), 0)


def test_milp_prints_nothing_to_standard_output(capfd):
    Milp().solve(small_problem(1, [["mid"] * 3], num_ops=10), Budget(1), 0)
    assert capfd.readouterr().out == ""


def test_piper_recomputes_where_memory_is_short():
    roomy = small_problem(4, [["mid"] * 2], num_ops=10, objective="iteration-time", num_microbatches=8)
    peak = max(Piper().solve(roomy, Budget(10), 0).plan.prediction.peak_memory_bytes)
    found = set()
    for share in (0.9, 0.8, 0.7, 0.6, 0.5):
        tight = small_problem(
            4, [["mid"] * 2], num_ops=10, objective="iteration-time", num_microbatches=8, memory=f"{int(peak * share)}B"
        )
        result = Piper().solve(tight, Budget(10), 0)
        if result.plan is not None:
            assert max(result.plan.prediction.peak_memory_bytes) <= peak * share
            found |= {stage.recompute for stage in result.plan.stages}
    assert True in found


def test_piper_equals_exhaustive_search_on_a_chain():
    problem = small_problem(2, [["mid"] * 3], num_ops=7, chain=True)
    evaluator = Evaluator(problem)
    best = min(evaluator.bottleneck_s(a) for a in all_chain_splits(problem, replicate=True))
    assert Piper().solve(problem, Budget(10), 0).plan.prediction.bottleneck_s == pytest.approx(best, rel=1e-9)


def test_dapple_estimates_the_latency_of_a_chain():
    """Four equal stages: M + 3 rounds of forward and backward."""
    problem = chain_problem(8, [["mid"] * 4], objective="iteration-time")
    result = Dapple().solve(problem, Budget(10), 0)
    estimate = result.breakdown["dapple_latency_s"]
    assert estimate <= (8 + 3) * 6e-3 * (1 + 1e-9)
    assert estimate == pytest.approx(result.plan.prediction.iteration_time_s, rel=0.2)


def test_scatter_takes_one_device_of_each_host_in_turn():
    assert scatter_order(levels_cluster([3, 2], [1e10, 1e9])) == (0, 3, 1, 4, 2, 5)


def test_metis_tries_many_configurations_and_beats_uniform_speeds():
    problem = PlanningProblem.build(
        profile("vgg16"), small_problem(0, UNEQUAL).cluster, objective="iteration-time", num_microbatches=16
    )
    result = Metis().solve(problem, Budget(20), 0)
    assert result.breakdown["configurations"] > 5
    validate(result.plan)


@pytest.mark.parametrize("planner", [Dapple, Piper, Metis])
def test_same_seed_same_plan(planner):
    problem = small_problem(5, UNEQUAL, num_ops=15, objective="iteration-time")
    first, again = (planner().solve(problem, Budget(30), 1).plan for _ in range(2))
    assert np.array_equal(first.stage_of_op, again.stage_of_op)
