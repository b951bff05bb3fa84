"""vLLM and SGLang: how many layers each pipeline rank serves, and the arguments that go with it, as shell variables.

Both divide only the list of decoder layers; embedding and head are on the first and the last rank. The list has one
number per rank, and its sum is the number of layers. Global ranks run through the devices that divide ops, then the
pipeline ranks of one copy, then the copies. Nodes of one server have equally many ranks; SGLang joins copies on several
hosts by its router only, so each copy is a server there. Plan for them with ``--objective serving``. Source:
vllm/distributed/utils.py and sglang/srt/distributed/utils.py (`get_pp_indices`), vllm/config/parallel.py,
sglang/srt/entrypoints/engine.py.
"""

from __future__ import annotations

from typing import NamedTuple

from drlpp.errors import PlanError
from drlpp.export.layers import check_ends, layered
from drlpp.export.pipelines import Pipeline, as_pipeline, check_divisions
from drlpp.export.ranks import copy_major, equal_nodes, rank_comment, ranks_by_copy
from drlpp.export.setup import precision
from drlpp.plan import Plan


class _Server(NamedTuple):
    """An engine's words.

    Attributes:
        title: for people.
        variable: the environment variable with the layers of each rank.
        command: what starts a server.
        tensor, stages, copies: options for devices that divide ops, pipeline ranks and data-parallel copies.
        address: option for the first node's address, ``HOST`` standing for it.
        copies_on_hosts: one server may have copies on several hosts.
    """

    title: str
    variable: str
    command: str
    tensor: str
    stages: str
    copies: str
    address: str
    copies_on_hosts: bool


_VLLM = _Server(
    title="vLLM",
    variable="VLLM_PP_LAYER_PARTITION",
    command="vllm serve MODEL",
    tensor="--tensor-parallel-size",
    stages="--pipeline-parallel-size",
    copies="--data-parallel-size",
    address="--master-addr HOST",
    copies_on_hosts=True,
)
_SGLANG = _Server(
    title="SGLang",
    variable="SGLANG_PP_LAYER_PARTITION",
    command="python -m sglang.launch_server --model-path MODEL",
    tensor="--tp-size",
    stages="--pp-size",
    copies="--dp-size",
    address="--dist-init-addr HOST:50000",
    copies_on_hosts=False,
)


def vllm(plan: Plan) -> str:
    """The environment and arguments of ``vllm serve``. Raises PlanError."""
    return _serve(plan, _VLLM)


def sglang(plan: Plan) -> str:
    """The environment and arguments of ``sglang.launch_server``. Raises PlanError."""
    return _serve(plan, _SGLANG)


def _serve(plan: Plan, engine: _Server) -> str:
    sharding = check_divisions(plan, engine.title, can=("tp", "zero1"))
    pipeline = as_pipeline(plan, engine.title)
    if pipeline.num_stages > pipeline.num_ranks:
        raise PlanError(
            f"{engine.title} has one stage on each rank, but the plan has {pipeline.num_stages} stages on "
            f"{pipeline.num_ranks} devices: plan with a planner that gives each device one stage, such as uniform"
        )
    model = layered(plan, engine.title)
    check_ends(model, plan.num_stages, engine.title)
    counts = model.layers_per_stage(plan.num_stages)
    if 0 in counts:
        raise PlanError(
            f"{engine.title} needs a layer on every rank, but stage {counts.index(0)} has no entry of "
            f"{model.list_name}: plan with fewer devices"
        )
    start, arguments = _launch(plan, pipeline, engine)
    if sharding.tensor > 1:
        arguments.insert(0, f"{engine.tensor} {sharding.tensor}")
    if precision(plan) != "fp32":
        arguments.append(f"--dtype {plan.graph.dtype}")
    lines = [
        f"# {plan.graph.name} on {plan.cluster.name}; layers are the entries of {model.list_name}.",
        rank_comment(plan.cluster, ranks_by_copy(pipeline), copy_major(pipeline)),
        *start,
        f"export {engine.variable}={','.join(map(str, counts))}",
        f'ENGINE_ARGS="{" ".join(arguments)}"',
    ]
    return "\n".join(lines) + "\n"


def _launch(plan: Plan, pipeline: Pipeline, engine: _Server) -> tuple[list[str], list[str]]:
    """Lines that say how the ranks start on their devices, and the arguments of all nodes."""
    copies, arguments = pipeline.num_copies, [f"{engine.stages} {pipeline.num_ranks}"]
    found = equal_nodes(plan.cluster, pipeline.copies)
    if len({node.host for node in found}) == 1:
        if copies > 1:
            arguments.append(f"{engine.copies} {copies}")
        visible = ",".join(node.visible for node in found)
        return [f"# Use: . FILE; {engine.command} $ENGINE_ARGS", f"export CUDA_VISIBLE_DEVICES={visible}"], arguments
    count = len(found)  # nodes of one server
    if copies > 1 and engine.copies_on_hosts:
        arguments.append(f"{engine.copies} {copies} --data-parallel-size-local 1")
    elif copies > 1:
        count //= copies
    lines = ["# Use, on each host:"]
    if count < len(found):
        lines = [f"# Use, on each host; a router joins the {copies} servers, one for each copy:"]
    for k, node in enumerate(found):
        address = engine.address.replace("HOST", found[k - k % count].host)
        joined = f" --nnodes {count} --node-rank {k % count} {address}" if count > 1 else ""
        start = f"CUDA_VISIBLE_DEVICES={node.visible} {engine.command} $ENGINE_ARGS{joined}"
        lines.append(f"#   {node.host}: . FILE; {start}")
    return lines, arguments
