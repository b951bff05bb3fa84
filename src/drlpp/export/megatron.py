"""Megatron-LM: ``--pipeline-model-parallel-layout`` and the sizes that go with it, as a shell array.

Grammar of the layout: ``E`` embedding, ``t`` decoder layer, ``L`` loss and output; ``|`` ends a stage; ``x*n`` repeats;
stage i is on pipeline rank i mod size. Megatron-LM decides the order of the actions itself. Global ranks run through
the devices that divide ops, then the copies, then the pipeline ranks (order tp-cp-ep-dp-pp). Source:
megatron/core/parallel_state.py, megatron/core/transformer/pipeline_parallel_layer_layout.py.
"""

from __future__ import annotations

from drlpp.export.layers import check_ends, layered
from drlpp.export.pipelines import as_pipeline, check_divisions, check_looped, recompute_everywhere
from drlpp.export.ranks import START_NODE, nodes, rank_comment, ranks_by_stage, shell_nodes, stage_major
from drlpp.export.setup import SGD_MOMENTUM, precision
from drlpp.plan import Plan
from drlpp.plan.validation import check_trains

_ENGINE = "Megatron-LM"


def megatron(plan: Plan) -> str:
    """The arguments as a shell array. Raises PlanError."""
    check_trains(plan, _ENGINE)
    sharding = check_divisions(plan, _ENGINE, can=("tp", "sp", "zero1"))
    pipeline = as_pipeline(plan, _ENGINE)
    check_looped(pipeline, _ENGINE)
    model = layered(plan, _ENGINE)
    check_ends(model, plan.num_stages, _ENGINE)
    remakes = recompute_everywhere(plan, _ENGINE)
    counts = model.layers_per_stage(plan.num_stages)
    samples = plan.graph.samples_per_microbatch
    arguments = [
        f"--num-layers {sum(counts)}",
        f"--pipeline-model-parallel-size {pipeline.num_ranks}",
        f'--pipeline-model-parallel-layout "{layout(counts)}"',
        f"--micro-batch-size {samples}",
        f"--global-batch-size {samples * plan.num_microbatches}",
    ]
    if sharding.tensor > 1:
        arguments.insert(1, f"--tensor-model-parallel-size {sharding.tensor}")
    if sharding.sequence:
        arguments.append("--sequence-parallel")
    if plan.training.zero1:
        arguments.append("--use-distributed-optimizer")
    if precision(plan) != "fp32":
        arguments.append(f"--{precision(plan)}")
    if plan.training.optimizer in SGD_MOMENTUM:
        arguments.append(f"--optimizer sgd --sgd-momentum {SGD_MOMENTUM[plan.training.optimizer]}")
    else:
        arguments.append("--optimizer adam")  # decoupled weight decay is its default
    if remakes:
        arguments.append("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1")
    ranks = ranks_by_stage(pipeline)
    lines = [
        f"# {plan.graph.name} on {plan.cluster.name}; layers are the entries of {model.list_name}.",
        rank_comment(plan.cluster, ranks, stage_major(pipeline)),
        "# Use, for each node on its host (node ranks are positions in NODE_HOSTS):",
        '#   . FILE; start_node NODE_RANK pretrain_gpt.py "${MEGATRON_ARGS[@]}" ...',
        *shell_nodes(nodes(plan.cluster, ranks)),
        START_NODE,
        *(
            ["export CUDA_DEVICE_MAX_CONNECTIONS=1  # asked for beside tensor parallelism"]
            if sharding.tensor > 1
            else []
        ),
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
