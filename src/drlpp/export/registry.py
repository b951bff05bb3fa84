"""All formats that a plan can be written in, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from drlpp.errors import InputError, did_you_mean
from drlpp.export.accelerate import accelerate
from drlpp.export.chrome_trace import chrome_trace
from drlpp.export.deepspeed import deepspeed
from drlpp.export.graphviz import op_dot, stage_dot
from drlpp.export.inference import sglang, vllm
from drlpp.export.kubernetes import kubernetes
from drlpp.export.megatron import megatron
from drlpp.export.ray_train import ray_train
from drlpp.export.slurm import slurm
from drlpp.export.torch_pipelining import torch_schedule, torch_split
from drlpp.export.torchtitan import torchtitan
from drlpp.plan import Plan
from drlpp.sim import simulate


class Exporter(NamedTuple):
    """A format: what it is, in a few words, and the function that writes a legal plan in it (or raises PlanError)."""

    summary: str
    export: Callable[[Plan], str]


def simulated_trace(plan: Plan) -> str:
    """The trace of a simulated iteration as Chrome/Perfetto JSON."""
    return chrome_trace(simulate(plan).trace)


EXPORTERS: Mapping[str, Exporter] = {
    "torch-schedule": Exporter("schedule CSV of torch.distributed.pipelining", torch_schedule),
    "torch-split": Exporter("split points of torch.distributed.pipelining (JSON)", torch_split),
    "torchtitan": Exporter("torchtitan configuration (TOML)", torchtitan),
    "megatron": Exporter("Megatron-LM arguments (shell array)", megatron),
    "deepspeed": Exporter("DeepSpeed pipeline module (Python)", deepspeed),
    "vllm": Exporter("layer partition of vLLM (shell)", vllm),
    "sglang": Exporter("layer partition of SGLang (shell)", sglang),
    "accelerate": Exporter("device_map of Hugging Face accelerate (JSON)", accelerate),
    "slurm": Exporter("Slurm job script that starts drlpp run", slurm),
    "kubernetes": Exporter("PyTorchJob manifest that starts drlpp run (YAML)", kubernetes),
    "ray": Exporter("Ray Train script that starts drlpp run (Python)", ray_train),
    "dot": Exporter("stage graph for Graphviz", stage_dot),
    "dot-ops": Exporter("op graph for Graphviz, a box per stage", op_dot),
    "chrome-trace": Exporter("simulated trace for Chrome/Perfetto (JSON)", simulated_trace),
}
"""Name -> format."""


def get_exporter(name: str) -> Callable[[Plan], str]:
    """The function that writes a format. Raises InputError that lists the known names."""
    if name not in EXPORTERS:
        raise InputError(
            f"export format {name!r} is not known: {did_you_mean(name, EXPORTERS)}formats are {', '.join(EXPORTERS)}"
        )
    return EXPORTERS[name].export
