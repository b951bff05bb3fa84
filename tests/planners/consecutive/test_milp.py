"""The integer program against the dynamic program and closed forms."""

import builtins

import pytest

from drlpp.errors import InputError
from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.consecutive.dynamic_program import DynamicProgram
from drlpp.planners.consecutive.milp import Milp
from planner_cases import chain_problem, small_problem

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
