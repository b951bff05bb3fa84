"""Plan files of a wrong form are refused in one line."""

import dataclasses
import json

import pytest

from drlpp.cluster import load_cluster
from drlpp.errors import InputError, PlanError, ScheduleError
from drlpp.graph.blocks import Recompute
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import (
    Plan,
    Prediction,
    Provenance,
    Sharding,
    Stage,
    StageSettings,
    parse_action,
    plan_from_dict,
    plan_to_dict,
    validate,
)
from drlpp.plan.settings import PLAIN
from drlpp.training import TrainingSetup
from mutations import mutated, refusal


@pytest.fixture(scope="module")
def written():
    """The parsed JSON of a plan of two stages, the second with two replicas."""
    stages = (
        Stage(index=0, ops=("op0", "op1"), replicas=((0,),)),
        Stage(index=1, ops=("op2", "op3"), replicas=((2,), (1,))),
    )
    orders = {0: "0F0 0F1 0B0 0B1", 1: "1F1 1B1", 2: "1F0 1B0"}
    plan = Plan(
        graph=chain_graph(4),
        cluster=load_cluster("local-4"),
        training=TrainingSetup(num_microbatches=2),
        stages=stages,
        schedule={rank: tuple(map(parse_action, text.split())) for rank, text in orders.items()},
        schedule_name="by hand",
        provenance=Provenance(planner="by hand"),
        prediction=Prediction(
            iteration_time_s=2.0,
            bottleneck_s=1.0,
            throughput_samples_per_s=1.0,
            peak_memory_bytes=(1.0, 2.0, 3.0, 0.0),
            bubble_fraction=(0.1, 0.2, 0.3, 1.0),
        ),
    )
    validate(plan)
    return json.loads(json.dumps(plan_to_dict(plan)))


def test_a_file_keeps_what_is_divided(written):
    data = json.loads(json.dumps(written))
    data["stages"] = [
        {**data["stages"][0], "replicas": [[0, 1]], "sharding": {"tensor": 2, "sequence": True, "optimizer": "zero1"}},
        {**data["stages"][1], "replicas": [[2], [3]], "sharding": {"optimizer": "zero1"}},
    ]
    data["schedule"] = {
        "0": data["schedule"]["0"],
        "1": data["schedule"]["0"],
        "2": ["1F0", "1B0"],
        "3": ["1F1", "1B1"],
    }
    plan = plan_from_dict(data)
    assert plan.stages[0].sharding == Sharding(tensor=2, sequence=True)
    assert plan.stages[0].devices == (0, 1)
    assert plan.training.zero1
    assert plan.grouping.groups == ((0, 1), (2,), (3,))
    assert plan.assignment.devices == ((0,), (1, 2))
    assert plan_from_dict(json.loads(json.dumps(plan_to_dict(plan)))).stages == plan.stages


def test_a_file_whose_stages_disagree_about_zero1_is_refused(written):
    data = json.loads(json.dumps(written))
    data["stages"][0]["sharding"] = {"optimizer": "zero1"}
    assert not plan_from_dict(data).training.zero1
    data["stages"][0]["replicas"] = [[0], [3]]
    with pytest.raises(PlanError, match="stages with replicas have sharding.optimizer 'zero1' and 'none'"):
        plan_from_dict(data)


@pytest.mark.parametrize("choice", Recompute)
def test_what_a_stage_computes_again_is_kept(written, choice):
    plan = plan_from_dict(written)
    stages = (dataclasses.replace(plan.stages[0], settings=StageSettings(choice)), *plan.stages[1:])
    again = plan_to_dict(dataclasses.replace(plan, stages=stages))
    assert again["stages"][0]["recompute"] == {0: False, 1: True, 2: "block"}[choice]
    assert plan_from_dict(again).stages[0].settings.recompute is choice


def test_a_file_keeps_unequal_shares(written):
    assert "shares" not in written["stages"][1]
    data = json.loads(json.dumps(written))
    data["stages"][1]["shares"] = [2, 4]
    plan = plan_from_dict(data)
    assert [stage.settings.shares for stage in plan.stages] == [(), (1, 2)]
    assert plan.assignment.settings == (PLAIN, StageSettings(shares=(1, 2)))
    assert plan_to_dict(plan)["stages"][1]["shares"] == [1, 2]
    with pytest.raises(ScheduleError, match="stage 1 does not run micro-batch 1 there .*by their shares"):
        validate(plan)
    data["schedule"]["1"], data["schedule"]["2"] = data["schedule"]["2"] + ["1F1", "1B1"], []
    data["stages"][1]["replicas"] = [[1], [2]]
    data["stages"][1]["shares"] = [2, 1]
    validate(plan_from_dict(data))


def test_a_replica_is_a_group_of_devices(written):
    assert [stage["replicas"] for stage in written["stages"]] == [[[0]], [[2], [1]]]
    assert plan_from_dict(written).stages[1].devices == (2, 1)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ["stages", 0, "replicas"],
            [[0, 1]],
            "stage 0 has the replica [0, 1]: a replica of it is a group of 1 (sharding: tensor)",
        ),
        (["stages", 0, "replicas"], [[]], "stage 0 has no devices"),
        (["stages", 1, "replicas"], [[0], []], "stage 1 has the replica []"),
        (["stages", 0, "sharding"], {"tensor": 0}, "sharding: tensor is 0: it must be at least 1"),
        (["stages", 0, "sharding"], {"optimizer": "zero3"}, "stages.0.sharding.optimizer = 'zero3'"),
        (["stages", 0, "replicas"], [0], "stages.0.replicas.0 = 0: must be a list"),
        (["stages", 0, "device"], [0], "unknown key 'stages.0.device'"),
        (["stages", 1, "recompute"], "no", "stages.1.recompute = 'no': must be "),
        (["schedule", "first"], [], "schedule.first"),
        (["prediction", "bottleneck_s"], None, "prediction.bottleneck_s = None: must be a number"),
        (["provenance", "mood"], "good", "unknown key 'provenance.mood'"),
        (["training", "optimiser"], "sgd", "unknown key 'training.optimiser': did you mean 'optimizer'?"),
    ],
)
def test_the_message_says_place_value_and_rule(written, place, value, message):
    data = json.loads(json.dumps(written))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(PlanError) as caught:
        plan_from_dict(data, "p.json")
    assert str(caught.value).startswith("p.json: ")
    assert message in str(caught.value)


def test_no_wrong_value_is_answered_in_the_words_of_python(written):
    for _, data in mutated(written):
        refusal(lambda d: validate(plan_from_dict(d, "p.json")), data, InputError)
