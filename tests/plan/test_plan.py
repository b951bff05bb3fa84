"""Plans: construction, the specification of a legal plan, actions, files."""

import dataclasses
import json

import numpy as np
import pytest

from drlpp.cluster import load_cluster
from drlpp.errors import PlanError, ScheduleError
from drlpp.graph import Op, OpGraph, Split
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.plan import (
    Assignment,
    Plan,
    Prediction,
    Provenance,
    Sharding,
    Stage,
    load_plan,
    parse_action,
    plan_from_dict,
    plan_to_dict,
    save_plan,
    stages_of,
    validate,
)
from drlpp.plan.validation import check_undivided
from drlpp.training import TrainingSetup


def schedule(**ranks):
    return {int(r[1:]): tuple(parse_action(a) for a in actions.split()) for r, actions in ranks.items()}


def chain_plan() -> Plan:
    """Two stages on devices 0 and 1, two micro-batches, 1F1B."""
    return Plan(
        graph=chain_graph(4),
        cluster=load_cluster("local-2"),
        training=TrainingSetup(num_microbatches=2),
        stages=(
            Stage(index=0, ops=("op0", "op1"), replicas=((0,),)),
            Stage(index=1, ops=("op2", "op3"), replicas=((1,),)),
        ),
        schedule=schedule(r0="0F0 0F1 0B0 0B1", r1="1F0 1B0 1F1 1B1"),
        schedule_name="1f1b",
        provenance=Provenance(planner="by hand"),
    )


def test_a_legal_plan():
    plan = chain_plan()
    validate(plan)
    assert plan.stage_of_op.tolist() == [0, 0, 1, 1]
    assert plan.num_microbatches == 2


def test_used_devices_are_those_that_run_a_stage():
    plan = chain_plan()
    alone = dataclasses.replace(plan, stages=(dataclasses.replace(plan.stages[0], replicas=((1,),)),))
    assert alone.used_devices == (1,)
    stages = tuple(dataclasses.replace(stage, replicas=((1,), (0,))) for stage in plan.stages)
    assert dataclasses.replace(plan, stages=stages).used_devices == (0, 1)


def test_split_backward_and_replicas_are_legal():
    split = schedule(r0="0F0 0F1 0I0 0W0 0B1", r1="1F0 1I0 1F1 1I1 1W0 1W1")
    validate(dataclasses.replace(chain_plan(), schedule=split))
    one = (Stage(index=0, ops=("op0", "op1", "op2", "op3"), replicas=((1,), (0,))),)
    validate(dataclasses.replace(chain_plan(), stages=one, schedule=schedule(r1="0F0 0B0", r0="0F1 0B1")))


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"r0": "0F0 0F1 0B0 0B1", "r1": "1F0 1B0 1F1"}, "rank 1 runs .* of stage 1, micro-batch 1"),
        ({"r0": "0F0 0F1 0B0 0B1"}, "rank 1 runs"),
        ({"r0": "0F0 0F1 0B0 0B1 1F0", "r1": "1F0 1B0 1F1 1B1"}, "does not run micro-batch 0 there"),
        ({"r0": "0F0 0F1 0B0 0B1 0B1", "r1": "1F0 1B0 1F1 1B1"}, "action 0B1 after"),
        ({"r0": "0B0 0F0 0F1 0B1", "r1": "1F0 1B0 1F1 1B1"}, "action 0B0 after"),
        ({"r0": "0F0 0F1 0W0 0I0 0B1", "r1": "1F0 1B0 1F1 1B1"}, "action 0W0 after"),
        ({"r0": "0F0 0F1 0B0 0B1", "r1": "1F0 1B0 1F1 1B1", "r7": ""}, "rank 7"),
        ({"r0": "0F0 0B0 0F1 0B1", "r1": "1F1 1B1 1F0 1B0"}, "deadlocks: rank 0 at 0B0, rank 1 at 1F1"),
    ],
)
def test_illegal_schedules_are_refused(ranks, message):
    with pytest.raises(ScheduleError, match=message):
        validate(dataclasses.replace(chain_plan(), schedule=schedule(**ranks)))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "no stages"),
        ((Stage(index=1, ops=("op0",), replicas=((0,),)),), "has index 1"),
        ((Stage(index=0, ops=("op0",), replicas=()),), "has no devices"),
        ((Stage(index=0, ops=("op0",), replicas=((0,), (0,))),), "lists a device twice"),
        ((Stage(index=0, ops=("op0",), replicas=((5,),)),), "on device 5"),
    ],
)
def test_bad_stages_are_refused_at_construction(stages, message):
    with pytest.raises(PlanError, match=message):
        dataclasses.replace(chain_plan(), stages=stages)


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((("op0", "op1"), ("op2",)), "'op3' is in no stage"),
        ((("op0", "op1"), ("op1", "op2", "op3")), "'op1' is in stages 0 and 1"),
        ((("op0", "op9"), ("op1", "op2", "op3")), "no such op"),
        ((("op0", "op2"), ("op1", "op3")), "goes from stage 1 back to stage 0"),
    ],
)
def test_bad_partitions_are_refused(ops, message):
    stages = tuple(Stage(index=i, ops=o, replicas=((i,),)) for i, o in enumerate(ops))
    with pytest.raises(PlanError, match=message):
        validate(dataclasses.replace(chain_plan(), stages=stages))


def test_file_round_trip(tmp_path):
    prediction = Prediction(
        iteration_time_s=1.0,
        bottleneck_s=0.5,
        throughput_samples_per_s=2.0,
        peak_memory_bytes=(1.0, 2.0),
        bubble_fraction=(0.1, 0.2),
    )
    plan = dataclasses.replace(chain_plan(), prediction=prediction)
    save_plan(plan, tmp_path / "p.json")
    assert load_plan(tmp_path / "p.json") == plan


def test_files_list_the_names_of_the_source():
    graph = OpGraph(
        name="g",
        ops=(Op(name="a", kind="k", members=("x", "y")), Op(name="b", kind="k")),
        edges=(),
        tensor_bytes={},
    )
    plan = dataclasses.replace(chain_plan(), graph=graph, stages=(Stage(index=0, ops=("a", "b"), replicas=((0,),)),))
    data = plan_to_dict(plan)
    assert data["stages"][0]["ops"] == ["x", "y", "b"]
    assert plan_from_dict(data).stages[0].ops == ("a", "b")
    data["stages"][0]["ops"] = ["x", "b"]
    with pytest.raises(PlanError, match="'x' but not 'y': these must stay together"):
        plan_from_dict(data)


def edited(path, value):
    data = json.loads(json.dumps(plan_to_dict(chain_plan())))
    at = data
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema_version"], 9, "schema_version 9"),
        (["format"], "other", "format is 'other'"),
        (["speed"], 1, "unknown key 'speed'"),
        (["stages"], None, "key 'stages' is missing"),
        (["graph", "hash"], "0", "graph.hash does not match"),
        (["graph", "content", "ops", 0, "kind"], "x", "graph.hash does not match"),
        (["stages", 0, "ops", 0], "op9", "no such op"),
        (["stages", 0, "replicas"], [[9]], "p.json: stage 0 is on device 9"),
        (["schedule", "0", 0], "zero", "'zero' is not an action"),
        (["num_microbatches"], 0, "at least 1"),
        (["training", "optimizer"], "magic", "'magic' is not known"),
        (["cluster", "hosts"], [], "hosts"),
        (["provenance", "mood"], "good", "unknown key .provenance.mood."),
    ],
)
def test_bad_files_are_refused(path, value, message):
    with pytest.raises((PlanError, ValueError), match=message) as caught:
        plan_from_dict(edited(path, value), "p.json")
    assert str(caught.value).startswith("p.json")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError, match="cannot read plan file"):
        load_plan(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PlanError, match="not JSON"):
        load_plan(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PlanError, match="found a list"):
        load_plan(tmp_path / "list.json")


def test_a_schedule_for_far_more_micro_batches_is_refused_at_once():
    plan = dataclasses.replace(chain_plan(), training=TrainingSetup(num_microbatches=10**9))
    with pytest.raises(ScheduleError, match=r"8 actions for 1e\+09 micro-batches in 2 stages"):
        validate(plan)


def test_ranks_of_a_group_have_the_same_actions():
    plan = chain_plan()
    stage = dataclasses.replace(
        plan.stages[0], ops=plan.stages[0].ops + plan.stages[1].ops, replicas=((0, 1),), sharding=Sharding(tensor=2)
    )
    whole = dataclasses.replace(plan, stages=(stage,), schedule=schedule(r0="0F0 0F1 0B0 0B1", r1="0F0 0F1 0B0 0B1"))
    with pytest.raises(PlanError, match="a stage divides its ops over 2 devices, and none can be"):
        validate(whole)
    divided = dataclasses.replace(plan.graph.ops[0], splits=(Split("columns", 4),))
    same = dataclasses.replace(whole, graph=dataclasses.replace(plan.graph, ops=(divided, *plan.graph.ops[1:])))
    validate(same)
    with pytest.raises(ScheduleError, match="ranks 0 and 1 divide the ops of a stage and have different actions"):
        validate(dataclasses.replace(same, schedule=schedule(r0="0F0 0F1 0B0 0B1", r1="0F0 0B0 0F1 0B1")))
    with pytest.raises(PlanError, match="stage 0 divides its ops over 2 devices, which the engine cannot do"):
        check_undivided(same, "the engine")
    zero1 = dataclasses.replace(plan.training, zero1=True)
    copies = dataclasses.replace(stage, replicas=((0,), (1,)), sharding=Sharding())
    two_copies = dataclasses.replace(plan, stages=(copies,))
    with pytest.raises(PlanError, match=r"the plan divides optimizer states \(ZeRO-1\), which the engine cannot do"):
        check_undivided(dataclasses.replace(two_copies, training=zero1), "the engine")
    check_undivided(dataclasses.replace(plan, training=zero1), "the engine")


def test_branches_run_in_any_order():
    """Two branches that no edge joins may run at the same time: the schedule needs no order between them."""
    graph = random_graph(np.random.default_rng(1), 12, branching=0.8)
    labels = np.minimum(np.arange(12) // 4, 2)
    stages = tuple(
        Stage(index=s, ops=tuple(graph.ops[i].name for i in np.flatnonzero(labels == s)), replicas=((s % 2,),))
        for s in range(3)
    )
    plan = dataclasses.replace(
        chain_plan(),
        graph=graph,
        stages=stages,
        schedule=schedule(r0="0F0 0F1 2F0 2B0 2F1 2B1 0B0 0B1", r1="1F0 1F1 1B0 1B1"),
    )
    validate(plan)


def test_stages_of_an_assignment_name_their_ops(tmp_path):
    graph = chain_graph(3)
    stages = stages_of(graph, Assignment(np.array([0, 1, 1]), ((0,), (2, 1)), (False, True)))
    assert [(s.index, s.ops, s.devices, s.recompute) for s in stages] == [
        (0, (graph.ops[0].name,), (0,), False),
        (1, (graph.ops[1].name, graph.ops[2].name), (2, 1), True),
    ]
