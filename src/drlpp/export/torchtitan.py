"""torchtitan: the ``[parallelism]`` table with ``module_fqns_per_model_part``.

torchtitan copies the whole model for each stage and drops top-level modules, and entries of top-level lists, that the
stage does not name. A wrapper around the model (for example one that adds the loss) is taken off the names. Releases
before 0.3 read the file as it is; for later ones, fill `ParallelismConfig` and `TrainingConfig` from its tables, whose
names are the same. Source: torchtitan/distributed/pipeline_parallel.py (`_split_module`), torchtitan/config/configs.py.
"""

from __future__ import annotations

import json

from drlpp.errors import PlanError
from drlpp.export.pipelines import (
    RUN_INSTEAD,
    Pipeline,
    as_pipeline,
    check_looped,
    check_no_tied_parameters,
    recompute_everywhere,
)
from drlpp.plan import Plan
from drlpp.plan.modules import module_owners, prefixes, wrapper_prefix

_ENGINE = "torchtitan"
_SCHEDULES = {"1f1b": "1F1B", "gpipe": "GPipe"}


def torchtitan(plan: Plan) -> str:
    """The configuration as TOML. Raises PlanError."""
    check_no_tied_parameters(plan, _ENGINE)
    pipeline = as_pipeline(plan, _ENGINE)
    check_looped(pipeline, _ENGINE)
    recompute = recompute_everywhere(plan, _ENGINE)
    samples = plan.graph.samples_per_microbatch
    parts = ",\n".join(f"    {json.dumps(part)}" for part in module_names(plan))
    lines = [
        f"# {plan.graph.name} on {plan.cluster.name}; devices of the pipeline ranks, per data-parallel copy:",
        f"# {'; '.join(', '.join(map(str, copy)) for copy in pipeline.copies)}",
        "[parallelism]",
        f"pipeline_parallel_degree = {pipeline.num_ranks}",
        f"data_parallel_replicate_degree = {len(pipeline.copies)}",
        f"pipeline_parallel_microbatch_size = {samples}",
        *_schedule(plan, pipeline),
        f"module_fqns_per_model_part = [\n{parts},\n]",
        "",
        "[training]",
        f"local_batch_size = {samples * pipeline.num_microbatches}",
        f"global_batch_size = {samples * plan.num_microbatches}",
        "",
        "[activation_checkpoint]",
        f'mode = "{"full" if recompute else "none"}"',
    ]
    return "\n".join(lines) + "\n"


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
    labels = plan.stage_of_op.tolist()
    owners = module_owners(plan.graph, labels)
    wrapper = wrapper_prefix(op.module for op in plan.graph.ops if op.module and op.params)
    kept: list[dict[str, None]] = [{} for _ in plan.stages]
    before = 0
    for op in plan.graph.ops:
        if not op.module.startswith(wrapper) or op.module == wrapper.rstrip("."):
            continue
        path = prefixes(op.module.removeprefix(wrapper))
        top, entry = path[0], path[1] if len(path) > 1 and path[1].rpartition(".")[2].isdigit() else None
        stage = owners[wrapper + top]
        names = [top] if stage is not None else []
        if entry is not None:
            stage = owners[wrapper + entry]
            names.append(entry)
        if stage is None:
            raise PlanError(
                f"{_ENGINE} splits a model between top-level modules and entries of top-level lists, but the plan "
                f"splits {wrapper + (entry or top)!r}: {RUN_INSTEAD}"
            )
        if stage < before and op.params:
            raise PlanError(
                f"{_ENGINE} runs modules in order, but {wrapper + names[-1]!r} is in stage {stage} and runs after "
                f"modules of stage {before}: {RUN_INSTEAD}"
            )
        before = max(before, stage)
        kept[stage].update(dict.fromkeys(names))
    if empty := [s for s, names in enumerate(kept) if not names]:
        raise PlanError(
            f"{_ENGINE} needs a module in every stage, but stage {empty[0]} has none: capture a PyTorch model "
            "(imported graphs name no modules), or use `drlpp run`"
        )
    return [list(names) for names in kept]
