"""Settings of planners: their record in a plan, and the same plan made again from it."""

import json
from pathlib import Path

import pytest

from drlpp.agent.planner.planner import DrlConfig
from drlpp.errors import InputError
from drlpp.plan import Provenance, plan_from_dict, plan_to_dict
from drlpp.planners.base import Budget
from drlpp.planners.baselines.greedy import Greedy, GreedyParams
from drlpp.planners.consecutive.dynamic_program import DynamicProgramParams
from drlpp.planners.local_search.annealing import Annealing, AnnealingParams
from drlpp.planners.parameters import recorded, restored
from drlpp.planners.registry import PLANNERS, get_planner
from drlpp.solving import planner_of
from planner_cases import small_problem


@pytest.mark.parametrize(
    "params",
    [
        AnnealingParams(max_rounds=3, program=DynamicProgramParams(fill_slacks=(1.0, 2.0))),
        DrlConfig(episodes=9, weights=Path("weights.safetensors")),
        DrlConfig(),
    ],
)
def test_settings_come_back_from_json(params):
    assert restored(type(params), json.loads(json.dumps(recorded(params)))) == params


@pytest.mark.parametrize("name", PLANNERS)
def test_settings_of_every_planner_come_back(name):
    params = getattr(get_planner(name), "params", None)
    if params is not None:
        assert get_planner(name, json.loads(json.dumps(recorded(params)))).params == params


@pytest.mark.parametrize(
    "planner",
    [
        Greedy(GreedyParams(bisections=2, device_orders=1)),
        Annealing(AnnealingParams(max_rounds=2, moves_per_op=10, walk_steps=5)),
    ],
)
def test_a_plan_is_made_again_from_its_provenance(planner):
    problem = small_problem(1, [["fast", "slow"], ["mid"]], objective="iteration-time")
    first = planner.solve(problem, Budget(1000.0), 3).plan
    kept = plan_from_dict(json.loads(json.dumps(plan_to_dict(first)))).provenance
    again = planner_of(kept).solve(problem, Budget(1000.0), kept.seed).plan
    assert again.assignment.key == first.assignment.key
    assert again.schedule == first.schedule
    assert again.provenance.parameters == first.provenance.parameters
    assert again.prediction == first.prediction


def test_the_learned_planner_comes_back_with_its_settings():
    config = DrlConfig(episodes=9, policy_only=True)
    record = {"search": {}} | json.loads(json.dumps(recorded(config)))
    assert planner_of(Provenance(planner="drl", parameters=record)).params == config


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match="setting 'speed' is not one of GreedyParams: use the version"):
        get_planner("greedy", {"speed": 2})
    with pytest.raises(InputError, match="planner 'uniform' has no setting 'speed': leave it out"):
        get_planner("uniform", {"speed": 2})
