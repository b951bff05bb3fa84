"""Checked with torch's own reader, validator and splitter."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, SplitPoint, pipeline
from torch.distributed.pipelining.schedules import (
    _Action,
    _add_send_recv,
    _PipelineScheduleRuntime,
    _simulate_comms_compute,
    _validate_schedule,
)
from torch.testing._internal.distributed.fake_pg import FakeStore

from drlpp.cluster import load_cluster
from drlpp.errors import PlanError
from drlpp.export.pipelines import as_pipeline
from drlpp.export.torch_pipelining import torch_schedule, torch_split
from drlpp.graph import Edge, Op, OpGraph
from drlpp.plan import Plan, Provenance, Stage, parse_action, validate
from drlpp.training import TrainingSetup
from exported_models import LanguageModel, example_tokens, plan_by_modules, right_before_left

PLACEMENTS = {
    "one stage each": (["layers.1", "layers.3"], [(2,), (0,), (1,)]),
    "looped": (["layers.1", "layers.2", "layers.4"], [(0,), (1,), (0,), (1,)]),
    "V": (["layers.1", "layers.2", "layers.4"], [(0,), (1,), (1,), (0,)]),
    "two copies": (["layers.1", "layers.3"], [(0, 3), (1, 4), (2, 5)]),
}


@pytest.fixture(params=PLACEMENTS)
def plan(request, language_model):
    begins, devices = PLACEMENTS[request.param]
    return plan_by_modules(language_model, begins, devices)


@pytest.fixture
def process_group():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=3)
    yield
    dist.destroy_process_group()


def parsed(text: str) -> dict[int, list[_Action | None]]:
    return {r: [_Action.from_str(cell) for cell in row.split(",")] for r, row in enumerate(text.splitlines())}


def test_torch_accepts_the_schedule(plan):
    shape = as_pipeline(plan, "X")
    actions = parsed(torch_schedule(plan))
    assert len({len(row) for row in actions.values()}) == 1
    mapping = _validate_schedule(actions, shape.num_ranks, plan.num_stages, shape.num_microbatches)
    assert [mapping[s] for s in range(plan.num_stages)] == list(shape.rank_of_stage)
    compute = {rank: [a for a in row if a is not None] for rank, row in actions.items()}
    lowered = _add_send_recv(compute, lambda s: mapping[s], plan.num_stages)
    _simulate_comms_compute(lowered, lambda s: mapping[s], plan.num_stages)


def test_the_order_is_that_of_the_plan(plan):
    actions = parsed(torch_schedule(plan))
    for rank, order in enumerate(as_pipeline(plan, "X").actions):
        assert [str(a) for a in actions[rank] if a is not None] == [str(a) for a in order]


def test_microbatches_are_numbered_in_the_order_of_the_last_stage(language_model):
    """torch takes the losses of the last stage in the order of its forward passes."""
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)], num_microbatches=3)
    swap = {0: 1, 1: 0, 2: 2}
    schedule = {
        r: tuple(a._replace(microbatch=swap[a.microbatch]) for a in order) for r, order in plan.schedule.items()
    }
    swapped = dataclasses.replace(plan, schedule=schedule)
    validate(swapped)
    assert torch_schedule(swapped) == torch_schedule(plan)


def test_split_backward_passes(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)], num_microbatches=2)
    schedule = {}
    for rank, order in plan.schedule.items():
        halves = [(a._replace(kind="I"), a._replace(kind="W")) if a.kind == "B" else (a,) for a in order]
        schedule[rank] = tuple(a for group in halves for a in group)
    text = torch_schedule(dataclasses.replace(plan, schedule=schedule))
    _validate_schedule(parsed(text), 2, 2, 2)
    assert "1I0,1W0" in text


def test_the_runtime_schedule_of_torch_loads_the_file(layered_plan, tmp_path, process_group):
    path = tmp_path / "schedule.csv"
    path.write_text(torch_schedule(layered_plan))
    stage = PipelineStage(torch.nn.Linear(2, 2), 0, 3, torch.device("cpu"))
    schedule = _PipelineScheduleRuntime([stage], 8, loss_fn=torch.nn.functional.mse_loss)
    schedule._load_csv(str(path))
    assert schedule.pipeline_order_with_comms.keys() == {0, 1, 2}


def test_torch_splits_the_model_into_the_stages_of_the_plan(layered_plan):
    spec = json.loads(torch_split(layered_plan))
    points = {name: SplitPoint[point] for name, point in spec["split_spec"].items()}
    model = LanguageModel()
    pipe = pipeline(model, mb_args=(example_tokens(),), split_spec=points)
    assert pipe.num_stages == layered_plan.num_stages
    for stage in layered_plan.stages:
        index = layered_plan.graph.index
        expected = {p for name in stage.ops for p in layered_plan.graph.ops[index[name]].params}
        assert {name for name, _ in pipe.get_stage_module(stage.index).named_parameters()} == expected
    assert spec["devices_of_ranks"] == [[2, 0, 1]]


def test_stages_must_begin_with_a_module(language_model):
    plan = plan_by_modules(language_model, ["relu_2"], [(0,), (1,)])
    with pytest.raises(PlanError, match=r"stage 1 begins at op 'relu_2' inside 'layers\.2'"):
        torch_split(plan)
    torch_schedule(plan)


def test_stages_must_follow_the_order_of_execution(branches):
    with pytest.raises(PlanError, match="of stage 0 runs after ops of stage 1"):
        torch_split(right_before_left(branches))


def test_branches_are_refused(branches):
    plan = plan_by_modules(branches, ["left", "right", "add"], [(0,), (1,), (2,), (3,)])
    for export in (torch_schedule, torch_split):
        with pytest.raises(PlanError, match="branch or a skip"):
            export(plan)


def test_a_cut_without_a_gradient_is_refused_when_the_schedule_needs_none():
    """Stage 0 sends a mask only, and its backward pass runs before that of stage 1: torch would wait for ever."""
    ops = tuple(Op(name=n, kind="k", module=n) for n in ("mask", "layer"))
    graph = OpGraph(
        name="masked",
        ops=ops,
        edges=(Edge(src="mask", dst="layer", tensor="mask", requires_grad=False),),
        tensor_bytes={"mask": 1.0},
    )
    plan = Plan(
        graph=graph,
        cluster=load_cluster("local-2"),
        training=TrainingSetup(num_microbatches=2),
        stages=(Stage(index=0, ops=("mask",), replicas=((0,),)), Stage(index=1, ops=("layer",), replicas=((1,),))),
        schedule={
            0: tuple(map(parse_action, ["0F0", "0B0", "0F1", "0B1"])),
            1: tuple(map(parse_action, ["1F0", "1F1", "1B1", "1B0"])),
        },
        schedule_name="by hand",
        provenance=Provenance(planner="by hand"),
    )
    validate(plan)
    with pytest.raises(PlanError, match="only tensors without a gradient"):
        torch_schedule(plan)
