"""DeepSpeed: a `PipelineModule` whose layers are split where the plan says.

DeepSpeed has no option for given boundaries; a subclass sets them, as `PipelineModule._partition_layers` would. The
layers are to be listed in the order that the file names. DeepSpeed decides the order of the actions itself (1F1B).
Source: deepspeed/runtime/pipe/module.py.
"""

from __future__ import annotations

from drlpp.errors import PlanError
from drlpp.export.layers import layered
from drlpp.export.pipelines import RUN_INSTEAD, as_pipeline, recompute_everywhere
from drlpp.plan import Plan

_ENGINE = "DeepSpeed"


def deepspeed(plan: Plan) -> str:
    """A Python module that defines ``PlannedPipelineModule``. Raises PlanError."""
    pipeline = as_pipeline(plan, _ENGINE)
    if pipeline.num_stages > pipeline.num_ranks:
        raise PlanError(
            f"{_ENGINE} has one stage on each rank, but the plan has {pipeline.num_stages} stages on "
            f"{pipeline.num_ranks} devices: {RUN_INSTEAD}"
        )
    model = layered(plan, _ENGINE)
    interval = 1 if recompute_everywhere(plan, _ENGINE) else 0
    parts = [model.stages.index(s) if s in model.stages else None for s in range(plan.num_stages)]
    if None in parts:
        raise PlanError(
            f"{_ENGINE} needs a module in every stage, but stage {parts.index(None)} has only ops between modules: "
            f"{RUN_INSTEAD}"
        )
    order = "; ".join(", ".join(map(str, copy)) for copy in pipeline.copies)
    samples = plan.graph.samples_per_microbatch
    names = "\n".join(f"    {unit!r},  # stage {s}" for unit, s in zip(model.units, model.stages, strict=True))
    tied = "\n# Stages share parameters: list these layers as TiedLayerSpec." if plan.stage_graph.tied else ""
    return f"""# {plan.graph.name} on {plan.cluster.name}.
# Devices of the stages, per data-parallel copy: {order}{tied}
from deepspeed.pipe import PipelineModule

LAYERS = [  # give PlannedPipelineModule its layers in this order
{names}
]
PARTS = {[*parts, len(model.units)]}  # stage s has layers PARTS[s] to PARTS[s + 1] - 1
NUM_STAGES = {plan.num_stages}
ACTIVATION_CHECKPOINT_INTERVAL = {interval}
DEEPSPEED_CONFIG = {{
    "train_micro_batch_size_per_gpu": {samples},
    "gradient_accumulation_steps": {pipeline.num_microbatches},
    "train_batch_size": {samples * plan.num_microbatches},
}}


class PlannedPipelineModule(PipelineModule):
    def _partition_layers(self, method="planned"):
        if len(self._layer_specs) != PARTS[-1]:
            raise ValueError(f"the plan has {{PARTS[-1]}} layers, not {{len(self._layer_specs)}}: see LAYERS")
        self.parts = PARTS
        stage = self._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=PARTS[stage], stop=PARTS[stage + 1])
"""
