"""Megatron-LM: ``--pipeline-model-parallel-layout`` and the sizes that go with it, as a shell array.

Grammar of the layout: ``E`` embedding, ``t`` decoder layer, ``L`` loss and output; ``|`` ends a stage; ``x*n`` repeats;
stage i is on pipeline rank i mod size. Megatron-LM decides the order of the actions itself. Source:
megatron/core/transformer/pipeline_parallel_layer_layout.py.
"""

from __future__ import annotations

from drlpp.export.layers import check_ends, layered
from drlpp.export.pipelines import as_pipeline, check_looped, recompute_everywhere
from drlpp.plan import Plan

_ENGINE = "Megatron-LM"


def megatron(plan: Plan) -> str:
    """The arguments as a shell array. Raises PlanError."""
    pipeline = as_pipeline(plan, _ENGINE)
    check_looped(pipeline, _ENGINE)
    model = layered(plan, _ENGINE)
    check_ends(model, plan.num_stages, _ENGINE)
    recompute = recompute_everywhere(plan, _ENGINE)
    counts = model.layers_per_stage(plan.num_stages)
    samples = plan.graph.samples_per_microbatch
    arguments = [
        f"--num-layers {sum(counts)}",
        f"--pipeline-model-parallel-size {pipeline.num_ranks}",
        f'--pipeline-model-parallel-layout "{layout(counts)}"',
        f"--micro-batch-size {samples}",
        f"--global-batch-size {samples * plan.num_microbatches}",
    ]
    if recompute:
        arguments.append("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1")
    order = "; ".join(", ".join(map(str, copy)) for copy in pipeline.copies)
    lines = [
        f"# {plan.graph.name} on {plan.cluster.name}; layers are the entries of {model.layers}.",
        f"# Devices of the pipeline ranks, per data-parallel copy: {order}",
        '# Use: . FILE; torchrun ... pretrain_gpt.py "${MEGATRON_ARGS[@]}" ...',
        "MEGATRON_ARGS=(",
        *(f"    {a}" for a in arguments),
        ")",
    ]
    return "\n".join(lines) + "\n"


def layout(layers_per_stage: list[int]) -> str:
    """``[3, 2]`` -> ``'Et*3|t*2L'``."""
    stages = [f"t*{n}" if n > 1 else "t" * n for n in layers_per_stage]
    stages[0] = f"E{stages[0]}"
    stages[-1] = f"{stages[-1]}L"
    return "|".join(stages)
