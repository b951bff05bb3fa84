"""vLLM and SGLang: how many layers each pipeline rank serves, as an environment variable.

Both divide only the list of decoder layers; embedding and head are on the first and the last rank. The list has one
number per rank, and its sum is the number of layers. Plan for them with ``--objective steady-state``: they run no
backward pass. Source: vllm/distributed/utils.py and sglang/srt/distributed/utils.py (`get_pp_indices`).
"""

from __future__ import annotations

from drlpp.errors import PlanError
from drlpp.export.layers import check_ends, layered
from drlpp.export.pipelines import as_pipeline
from drlpp.plan import Plan


def vllm(plan: Plan) -> str:
    """The environment of ``vllm serve``. Raises PlanError."""
    return _partition(plan, "vLLM", "VLLM_PP_LAYER_PARTITION", "vllm serve MODEL --pipeline-parallel-size")


def sglang(plan: Plan) -> str:
    """The environment of ``sglang.launch_server``. Raises PlanError."""
    command = "python -m sglang.launch_server --model-path MODEL --pp-size"
    return _partition(plan, "SGLang", "SGLANG_PP_LAYER_PARTITION", command)


def _partition(plan: Plan, engine: str, variable: str, command: str) -> str:
    pipeline = as_pipeline(plan, engine)
    if pipeline.num_stages > pipeline.num_ranks:
        raise PlanError(
            f"{engine} has one stage on each rank, but the plan has {pipeline.num_stages} stages on "
            f"{pipeline.num_ranks} devices: plan with a planner that gives each device one stage, such as uniform"
        )
    model = layered(plan, engine)
    check_ends(model, plan.num_stages, engine)
    counts = model.layers_per_stage(plan.num_stages)
    if 0 in counts:
        raise PlanError(
            f"{engine} needs a layer on every rank, but stage {counts.index(0)} has no entry of {model.layers!r}: "
            "plan with fewer devices"
        )
    order = "; ".join(", ".join(map(str, copy)) for copy in pipeline.copies)
    return (
        f"# {plan.graph.name} on {plan.cluster.name}; devices of the pipeline ranks, per copy: {order}\n"
        f"# Use: . FILE; {command} {plan.num_stages}\n"
        f"export {variable}={','.join(map(str, counts))}\n"
    )
