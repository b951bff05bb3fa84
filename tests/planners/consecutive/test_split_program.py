import itertools

import numpy as np
import pytest

from drlpp.cost.problem_arrays import problem_arrays
from drlpp.planners.base import Budget
from drlpp.planners.consecutive import split_program
from drlpp.planners.consecutive.device_states import in_order
from drlpp.planners.consecutive.split_program import solve_split
from drlpp.planners.consecutive.split_states import along_order
from planner_cases import small_problem


def solved(seed, *, value="bottleneck", limit_s=np.inf, budget=None):
    problem = small_problem(seed, [["fast", "mid"], ["slow", "mid"]], num_ops=40, link="2GB/s")
    arrays = problem_arrays(problem)
    states = in_order(problem, arrays, [(0,), (1,), (2,), (3,)], (1, 2, 3, 4))
    model = along_order(arrays, np.arange(40))
    return solve_split(model, states, value=value, limit_s=limit_s, budget=budget)


@pytest.mark.parametrize("seed", range(20))
def test_starting_from_fewer_states_changes_nothing(seed, monkeypatch):
    whole = solved(seed)
    monkeypatch.setattr(split_program, "MANY_STATES", 8)
    assert solved(seed).value_s == pytest.approx(whole.value_s, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_lies_below_the_best(seed):
    best = solved(seed).value_s
    assert solved(seed, limit_s=best * (1 - 1e-6)) is None
    assert solved(seed, limit_s=best * (1 + 1e-6)).value_s == pytest.approx(best, rel=1e-12)
    fill = solved(seed, value="fill", limit_s=best * (1 + 1e-6))
    assert fill.value_s <= sum(1 for _ in fill.stages) * 4 * best * (1 + 1e-6)


def test_a_table_ends_with_the_budget(monkeypatch):
    monkeypatch.setattr(split_program, "WORK_AT_ONCE", 1.0)
    best = solved(0).value_s
    assert solved(0, budget=Budget(100)).value_s == pytest.approx(best, rel=1e-12)
    assert solved(0, budget=Budget(0)) is None
    monkeypatch.setattr(split_program, "MANY_STATES", 8)
    found = [solved(0, budget=Budget(looks, itertools.count().__next__)) for looks in range(60)]
    values = [split.value_s for split in found if split is not None]
    assert found[0] is None
    assert values[0] >= values[-1] == pytest.approx(best, rel=1e-12)  # a part of the states, then all of them
    assert all(split.stages[-1][1] == 40 for split in found if split is not None)


def test_fewer_states_are_some_of_them():
    arrays = problem_arrays(small_problem(0, [["mid"] * 2], num_ops=10))
    model = along_order(arrays, np.arange(10))
    fewer = model.part(np.array([0, 4, 8, 10]))
    assert fewer.work_s.tolist() == model.work_s[[0, 4, 8, 10]].tolist()
    assert fewer.received[1, 3] == model.received[4, 10]
    assert fewer.stage_ops(1, 2).tolist() == [4, 5, 6, 7]
