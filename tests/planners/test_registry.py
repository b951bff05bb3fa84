"""What all planners have in common."""

import pytest

from drlpp.errors import InputError
from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.registry import PLANNERS, get_planner
from planner_cases import small_problem, with_split

UNEQUAL = [["fast", "mid"], ["slow", "mid"]]


@pytest.mark.parametrize("name", list(PLANNERS))
@pytest.mark.parametrize("objective", ["iteration-time", "steady-state"])
def test_every_planner_returns_a_legal_plan_with_its_prediction(name, objective):
    problem = with_split(small_problem(0, UNEQUAL, num_ops=14, objective=objective))
    planner = get_planner(name)
    assert planner.name == name
    assert planner.summary
    result = planner.solve(problem, Budget(0.5), 0)
    assert result.status == "ok"
    assert result.planner == name
    validate(result.plan)
    assert result.plan.provenance.planner == name
    assert result.plan.prediction.iteration_time_s > 0
    assert result.history


@pytest.mark.parametrize("name", list(PLANNERS))
def test_too_little_memory_is_infeasible_with_a_reason(name):
    problem = with_split(small_problem(0, UNEQUAL, num_ops=14, memory="1KB", objective="iteration-time"))
    result = get_planner(name).solve(problem, Budget(0.3), 0)
    assert result.status == "infeasible"
    assert result.plan is None
    assert "memory" in result.reason or "no plan" in result.reason


@pytest.mark.parametrize("name", list(PLANNERS))
def test_one_device_and_one_op(name):
    problem = with_split(small_problem(1, [["mid"]], num_ops=2), num_stages=1)
    result = get_planner(name).solve(problem, Budget(0.2), 0)
    assert result.status == "ok"
    assert result.plan.num_stages == 1


def test_unknown_planner_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'annealing'"):
        get_planner("anealing")
