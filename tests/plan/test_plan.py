"""Plans: construction, and the stages of an assignment."""

import dataclasses

import numpy as np
import pytest

from chain_plans import chain_plan
from drlpp.errors import PlanError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import (
    Assignment,
    Stage,
    stages_of,
)
from drlpp.plan.settings import AGAIN, PLAIN


def test_used_devices_are_those_that_run_a_stage():
    plan = chain_plan()
    alone = dataclasses.replace(plan, stages=(dataclasses.replace(plan.stages[0], replicas=((1,),)),))
    assert alone.used_devices == (1,)
    stages = tuple(dataclasses.replace(stage, replicas=((1,), (0,))) for stage in plan.stages)
    assert dataclasses.replace(plan, stages=stages).used_devices == (0, 1)


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


def test_stages_of_an_assignment_name_their_ops(tmp_path):
    graph = chain_graph(3)
    stages = stages_of(graph, Assignment(np.array([0, 1, 1]), ((0,), (2, 1)), (PLAIN, AGAIN)))
    assert [(s.index, s.ops, s.devices, s.settings.recompute) for s in stages] == [
        (0, (graph.ops[0].name,), (0,), False),
        (1, (graph.ops[1].name, graph.ops[2].name), (2, 1), True),
    ]
