"""torchtitan: the ``[parallelism]`` table with ``module_fqns_per_model_part``.

torchtitan copies the whole model for each stage and drops top-level modules, and entries of top-level lists, that the
stage does not name. Names are those of torchtitan's models (`top_level_unit`): a wrapper around the model, and the
module that holds the list of layers, are taken off. Global ranks run through the copies first, then through the
pipeline ranks. Releases before 0.3 read the file as it is; for later ones, fill `ParallelismConfig` and
`TrainingConfig` from its tables, whose names are the same. Source: torchtitan/distributed/pipeline_parallel.py
(`_split_module`), torchtitan/distributed/parallel_dims.py, torchtitan/config/configs.py.
"""

from __future__ import annotations

import json
from collections import defaultdict

from drlpp.errors import PlanError
from drlpp.export.pipelines import (
    RUN_INSTEAD,
    Pipeline,
    as_pipeline,
    check_divisions,
    check_looped,
    check_no_tied_parameters,
    recompute_everywhere,
)
from drlpp.export.ranks import nodes, rank_comment, ranks_by_stage, stage_major
from drlpp.export.setup import SGD_MOMENTUM, precision
from drlpp.plan import Plan, Sharding
from drlpp.plan.modules import top_level_unit
from drlpp.plan.validation import check_trains

_ENGINE = "torchtitan"
_SCHEDULES = {"1f1b": "1F1B", "gpipe": "GPipe"}


def torchtitan(plan: Plan) -> str:
    """The configuration as TOML. Raises PlanError."""
    check_trains(plan, _ENGINE)
    sharding = check_divisions(plan, _ENGINE, can=("tp", "sp"))
    check_no_tied_parameters(plan, _ENGINE)
    pipeline = as_pipeline(plan, _ENGINE)
    check_looped(pipeline, _ENGINE)
    remakes = recompute_everywhere(plan, _ENGINE)
    samples = plan.graph.samples_per_microbatch
    ranks = ranks_by_stage(pipeline)
    parts = ",\n".join(f"    {json.dumps(part)}" for part in module_names(plan))
    lines = [
        f"# {plan.graph.name} on {plan.cluster.name}.",
        rank_comment(plan.cluster, ranks, stage_major(pipeline)),
        "# Start one torchrun for each node (node rank, host, CUDA_VISIBLE_DEVICES):",
        *(f"#   {k} {node.host} {node.visible}" for k, node in enumerate(nodes(plan.cluster, ranks))),
        "[parallelism]",
        f"pipeline_parallel_degree = {pipeline.num_ranks}",
        *_degrees(pipeline, sharding),
        f"pipeline_parallel_microbatch_size = {samples}",
        *_schedule(plan, pipeline),
        f"module_fqns_per_model_part = [\n{parts},\n]",
        "",
        "[training]",
        f"local_batch_size = {samples * pipeline.num_microbatches}",
        f"global_batch_size = {samples * plan.num_microbatches}",
        *_precision(plan),
        "",
        "[optimizer]",
        f'name = "{"SGD" if plan.training.optimizer in SGD_MOMENTUM else "AdamW"}"',
        "",
        "[activation_checkpoint]",
        f'mode = "{"full" if remakes else "none"}"',
    ]
    return "\n".join(lines) + "\n"


def _degrees(pipeline: Pipeline, sharding: Sharding) -> list[str]:
    """torchtitan divides activations wherever it divides ops."""
    lines = [f"data_parallel_replicate_degree = {pipeline.num_copies}"]
    if sharding.tensor > 1 and not sharding.sequence:
        lines.append("# torchtitan divides what is kept between divided ops, too, which the plan does not count on")
    return [*lines, f"tensor_parallel_degree = {sharding.tensor}"]


def _precision(plan: Plan) -> list[str]:
    """The element types of parameters and of products."""
    if precision(plan) == "fp16":
        raise PlanError(f"{_ENGINE} trains in float32 or bfloat16, but the model is in float16: use bfloat16")
    parameters = "bfloat16" if plan.graph.dtype == "bfloat16" else "float32"
    products = "bfloat16" if precision(plan) == "bf16" else "float32"
    return [f'dtype = "{parameters}"', f'mixed_precision_param = "{products}"']


def _schedule(plan: Plan, pipeline: Pipeline) -> list[str]:
    single = pipeline.num_stages == pipeline.num_ranks
    if single and plan.schedule_name in _SCHEDULES:
        return [f'pipeline_parallel_schedule = "{_SCHEDULES[plan.schedule_name]}"']
    return [
        f'pipeline_parallel_schedule = "PipelineSchedule{"Single" if single else "Multi"}"',
        'pipeline_parallel_schedule_csv = "schedule.csv"  # drlpp export PLAN --to torch-schedule -o schedule.csv',
    ]


def module_names(plan: Plan) -> list[list[str]]:
    """The modules that each stage keeps: top-level ones, and entries of top-level lists.

    Raises:
        PlanError: the graph names no modules, or one is split deeper than torchtitan can, or is out of order.
    """
    unit_of = top_level_unit(plan.graph)
    labels = plan.stage_of_op.tolist()
    stages_of: dict[str, set[int]] = defaultdict(set)
    for op, stage in zip(plan.graph.ops, labels, strict=True):
        if unit := unit_of(op.module):
            stages_of[unit].add(stage)
            stages_of[unit.partition(".")[0]].add(stage)
    kept: list[dict[str, None]] = [{} for _ in plan.stages]
    before = 0
    for op, stage in zip(plan.graph.ops, labels, strict=True):
        unit = unit_of(op.module)
        if unit is None:
            continue
        if len(stages_of[unit]) > 1:
            raise PlanError(
                f"{_ENGINE} splits a model between top-level modules and entries of top-level lists, but the plan "
                f"splits {unit!r}: {RUN_INSTEAD}"
            )
        if stage < before and op.params:
            raise PlanError(
                f"{_ENGINE} runs modules in order, but {unit!r} is in stage {stage} and runs after "
                f"modules of stage {before}: {RUN_INSTEAD}"
            )
        before = max(before, stage)
        top = unit.partition(".")[0]
        kept[stage].update(dict.fromkeys([top, unit] if len(stages_of[top]) == 1 else [unit]))
    if empty := [s for s, names in enumerate(kept) if not names]:
        raise PlanError(
            f"{_ENGINE} needs a module in every stage, but stage {empty[0]} has none: capture a PyTorch model "
            "(imported graphs name no modules), or use `drlpp run`"
        )
    owners = {unit_of(op.module) for op in plan.graph.ops if op.params}
    for (src, dst), edge in zip(plan.graph.edge_ends.tolist(), plan.graph.edges, strict=True):
        unit = unit_of(plan.graph.ops[src].module)
        if unit and unit not in owners and not edge.requires_grad:
            kept[labels[dst]][unit] = None  # position tables and the like are made anew where they are read
    return [list(names) for names in kept]
