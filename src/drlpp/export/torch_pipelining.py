"""torch.distributed.pipelining: the schedule as CSV, and where to split the model.

The CSV has one row per pipeline rank and one cell per step; an empty cell is an idle step of a clock on which every
action takes one step. ``PipelineScheduleMulti._load_csv`` and ``_PipelineScheduleRuntime._load_csv`` read it.
Micro-batches are numbered in the order in which the last stage runs them: torch takes the losses of that stage in this
order, and gives wrong gradients otherwise. Source: torch/distributed/pipelining/schedules.py, torch 2.14.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json

from drlpp.errors import PlanError
from drlpp.export.pipelines import (
    RUN_INSTEAD,
    Pipeline,
    as_pipeline,
    check_divisions,
    check_no_tied_parameters,
    recomputing_stages,
)
from drlpp.plan import Action, Plan
from drlpp.plan.modules import prefixes
from drlpp.plan.validation import check_trains

_ENGINE = "torch.distributed.pipelining"


def torch_schedule(plan: Plan) -> str:
    """The schedule of one data-parallel copy as CSV. Raises PlanError."""
    check_trains(plan, _ENGINE)
    check_divisions(plan, _ENGINE)
    check_no_tied_parameters(plan, _ENGINE)
    steps = _clock(_numbered_by_last_stage(as_pipeline(plan, _ENGINE)))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [str(action) if action else "" for action in rank] for rank in steps
    )
    return text.getvalue()


def _numbered_by_last_stage(pipeline: Pipeline) -> Pipeline:
    """The same pipeline with micro-batches numbered in the order of the last stage's forward passes."""
    last = pipeline.num_stages - 1
    order = [a.microbatch for a in pipeline.actions[pipeline.rank_of_stage[last]] if (a.stage, a.kind) == (last, "F")]
    number = {microbatch: i for i, microbatch in enumerate(order)}
    actions = tuple(tuple(a._replace(microbatch=number[a.microbatch]) for a in rank) for rank in pipeline.actions)
    return dataclasses.replace(pipeline, actions=actions)


def _clock(pipeline: Pipeline) -> list[list[Action | None]]:
    """Every action in the first step in which its inputs are there; all rows of one length."""
    done: dict[tuple[int, str, int], int] = {}
    rows: list[list[Action | None]] = [[] for _ in pipeline.actions]
    position = [0] * pipeline.num_ranks
    while any(p < len(actions) for p, actions in zip(position, pipeline.actions, strict=True)):
        step = len(rows[0])
        ran: list[Action] = []
        for rank, actions in enumerate(pipeline.actions):
            action = actions[position[rank]] if position[rank] < len(actions) else None
            if action is not None and not _is_ready(action, pipeline.num_stages, done):
                action = None
            if action is not None:
                position[rank] += 1
                ran.append(action)
            rows[rank].append(action)
        if not ran:
            raise PlanError(
                f"{_ENGINE} hands a gradient back at every cut, and with that the schedule of this plan deadlocks: "
                f"a stage sends on only tensors without a gradient; {RUN_INSTEAD}"
            )
        for stage, kind, microbatch in ran:
            done[stage, "B" if kind == "I" else kind, microbatch] = step
    return rows


def _is_ready(action: Action, num_stages: int, done: dict[tuple[int, str, int], int]) -> bool:
    stage, kind, microbatch = action
    if kind == "F":
        return stage == 0 or (stage - 1, "F", microbatch) in done
    if kind == "W":
        return True
    return stage == num_stages - 1 or (stage + 1, "B", microbatch) in done


def torch_split(plan: Plan) -> str:
    """JSON for ``torch.distributed.pipelining.pipeline``: the module that each stage but the first begins with.

    Raises:
        PlanError: a stage does not begin where a module begins.
    """
    check_trains(plan, _ENGINE)
    check_divisions(plan, _ENGINE)
    check_no_tied_parameters(plan, _ENGINE)
    pipeline = as_pipeline(plan, _ENGINE)
    content = {
        "split_spec": dict.fromkeys(_split_points(plan), "BEGINNING"),
        "rank_of_stage": list(pipeline.rank_of_stage),
        "devices_of_ranks": [list(copy) for copy in pipeline.copies],
        "num_microbatches": pipeline.num_microbatches,
        "samples_per_microbatch": plan.graph.samples_per_microbatch,
        "recompute_stages": recomputing_stages(plan),
    }
    return json.dumps(content, indent=1) + "\n"


def _split_points(plan: Plan) -> list[str]:
    labels = plan.stage_of_op.tolist()
    needs_gradient = {e.tensor for e in plan.graph.edges if e.requires_grad}
    produces = {e.src for e in plan.graph.edges if e.tensor in needs_gradient}
    first_op: dict[str, int] = {}
    for i, op in enumerate(plan.graph.ops):
        for path in prefixes(op.module):
            first_op.setdefault(path, i)
    begins: list[str] = []
    so_far = 0
    for i, (op, stage) in enumerate(zip(plan.graph.ops, labels, strict=True)):
        if stage < so_far and op.name in produces:
            raise PlanError(
                f"{_ENGINE} splits a model along its order of execution, but op {op.name!r} of stage {stage} runs "
                f"after ops of stage {so_far}: {RUN_INSTEAD}"
            )
        if stage > so_far:
            so_far = stage
            start = next((p for p in prefixes(op.module) if first_op[p] == i), None)
            if start is None:
                raise PlanError(
                    f"{_ENGINE} splits a model where a module begins, but stage {stage} begins at op {op.name!r} "
                    f"inside {op.module or 'the model itself'!r}: {RUN_INSTEAD}"
                )
            begins.append(start)
    return begins
