"""The specification of a legal plan."""

import dataclasses

import numpy as np
import pytest

from chain_plans import chain_plan, schedule
from drlpp.errors import PlanError, ScheduleError
from drlpp.graph import Split
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import (
    Sharding,
    Stage,
    validate,
)
from drlpp.plan.validation import check_undivided
from drlpp.training import TrainingSetup


def test_a_legal_plan():
    plan = chain_plan()
    validate(plan)
    assert plan.stage_of_op.tolist() == [0, 0, 1, 1]
    assert plan.num_microbatches == 2


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
    check_undivided(plan, "the engine")


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
