"""DeepSpeed: a `PipelineModule` whose layers are split where the plan says.

DeepSpeed has no option for given boundaries; a subclass sets them, as `PipelineModule._partition_layers` would. The
layers are to be listed in the order that the file names. DeepSpeed decides the order of the actions itself (1F1B). Its
launcher numbers ranks through the devices of the hostfile; a topology puts the stages on the ranks of their devices.
Source: deepspeed/runtime/pipe/module.py and topology.py, deepspeed/launcher/runner.py.
"""

from __future__ import annotations

from pprint import pformat

from drlpp.cluster import Cluster
from drlpp.errors import PlanError
from drlpp.export.layers import layered
from drlpp.export.pipelines import RUN_INSTEAD, Pipeline, as_pipeline, check_divisions, recompute_everywhere
from drlpp.export.ranks import nodes
from drlpp.export.setup import SGD_MOMENTUM, precision
from drlpp.plan import Plan
from drlpp.plan.validation import check_trains

_ENGINE = "DeepSpeed"


def deepspeed(plan: Plan) -> str:
    """A Python module that defines ``PlannedPipelineModule``. Raises PlanError."""
    check_trains(plan, _ENGINE)
    check_divisions(plan, _ENGINE, can=("zero1",))
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
    samples = plan.graph.samples_per_microbatch
    names = "\n".join(f"    {unit!r},  # stage {s}" for unit, s in zip(model.units, model.stages, strict=True))
    tied = "\n# Stages share parameters: list these layers as TiedLayerSpec." if plan.stage_graph.tied_trained else ""
    devices = sorted(d for copy in pipeline.copies for d in copy)  # the launcher numbers ranks through the hostfile
    config: dict[str, object] = {
        "train_micro_batch_size_per_gpu": samples,
        "gradient_accumulation_steps": pipeline.num_microbatches,
        "train_batch_size": samples * plan.num_microbatches,
        "optimizer": _optimizer(plan.training.optimizer),
    }
    if plan.training.zero1:
        config["zero_optimization"] = {"stage": 1}
        if plan.training.optimizer in SGD_MOMENTUM:
            config["zero_allow_untested_optimizer"] = True
    if precision(plan) != "fp32":
        config[precision(plan)] = {"enabled": True}
    return f"""# {plan.graph.name} on {plan.cluster.name}.{tied}
from deepspeed.pipe import PipelineModule
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

# deepspeed --hostfile HOSTFILE --include "$INCLUDE" SCRIPT
HOSTFILE = {_hostfile(plan.cluster)!r}
INCLUDE = {"@".join(f"{n.host}:{n.visible}" for n in nodes(plan.cluster, tuple(devices)))!r}
RANKS = [  # global ranks of each stage, one for each data-parallel copy: the devices {devices} are ranks 0, 1, ...
{_stage_ranks(pipeline, devices)}
]
LAYERS = [  # give PlannedPipelineModule its layers in this order
{names}
]
PARTS = {[*parts, len(model.units)]}  # stage s has layers PARTS[s] to PARTS[s + 1] - 1
NUM_STAGES = {plan.num_stages}
ACTIVATION_CHECKPOINT_INTERVAL = {interval}
DEEPSPEED_CONFIG = {pformat(config, sort_dicts=False)}


class PlannedTopology(PipeDataParallelTopology):  # each stage of each copy on the rank of its device
    def __init__(self):
        super().__init__(num_pp=len(RANKS), num_dp=len(RANKS[0]))
        self.mapping = {{place: RANKS[place.pipe][place.data] for place in self.mapping}}


class PlannedPipelineModule(PipelineModule):  # takes the arguments of PipelineModule but for the topology
    def __init__(self, layers, **options):
        options.setdefault("activation_checkpoint_interval", ACTIVATION_CHECKPOINT_INTERVAL)
        super().__init__(layers, topology=PlannedTopology(), **options)

    def _partition_layers(self, method="planned"):
        if len(self._layer_specs) != PARTS[-1]:
            raise ValueError(f"the plan has {{PARTS[-1]}} layers, not {{len(self._layer_specs)}}: see LAYERS")
        self.parts = PARTS
        stage = self._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=PARTS[stage], stop=PARTS[stage + 1])
"""


def _hostfile(cluster: Cluster) -> str:
    return "".join(f"{host.name} slots={len(host.devices)}\n" for host in cluster.hosts)


def _stage_ranks(pipeline: Pipeline, devices: list[int]) -> str:
    stages = zip(*pipeline.copies, strict=True)
    return "\n".join(f"    {[devices.index(d) for d in stage]},  # stage {s}" for s, stage in enumerate(stages))


def _optimizer(name: str) -> dict[str, object]:
    """The configuration's ``optimizer``; the learning rate is the user's."""
    if name in SGD_MOMENTUM:
        return {"type": "SGD", "params": {"momentum": SGD_MOMENTUM[name]}}
    return {"type": "AdamW", "params": {}}
