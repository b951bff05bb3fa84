"""The written module is run against a stand-in for what DeepSpeed's `PipelineModule` has when it partitions."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import NamedTuple

import pytest

from drlpp.errors import PlanError
from drlpp.export.deepspeed import deepspeed
from drlpp.plan import Plan
from exported_models import capture_language_model, cluster, divided, plan_by_labels, plan_by_modules


class Place(NamedTuple):
    pipe: int
    data: int


class PipeDataParallelTopology:
    """What `deepspeed.runtime.pipe.topology.PipeDataParallelTopology` knows: the rank of each place."""

    def __init__(self, num_pp: int, num_dp: int) -> None:
        places = [Place(pipe, data) for pipe in range(num_pp) for data in range(num_dp)]
        self.mapping = {place: rank for rank, place in enumerate(places)}

    def get_coord(self, rank: int) -> Place:
        return next(place for place, r in self.mapping.items() if r == rank)


class PipelineModule:
    """What `deepspeed.pipe.PipelineModule` does before and after it partitions."""

    def __init__(
        self, layers: list[str], topology: PipeDataParallelTopology, activation_checkpoint_interval: int, stage: int
    ) -> None:
        self._layer_specs = list(layers)
        self.global_rank = stage
        self._topo = topology
        self.interval = activation_checkpoint_interval
        self._partition_layers(method="parameters")

    def _set_bounds(self, start: int, stop: int) -> None:
        self.local = self._layer_specs[start:stop]


@pytest.fixture
def load(monkeypatch):
    def run(plan: Plan) -> types.SimpleNamespace:
        topology = types.SimpleNamespace(PipeDataParallelTopology=PipeDataParallelTopology)
        for name in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.pipe"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, "deepspeed.pipe", types.SimpleNamespace(PipelineModule=PipelineModule))
        monkeypatch.setitem(sys.modules, "deepspeed.runtime.pipe.topology", topology)
        names: dict[str, object] = {}
        exec(compile(deepspeed(plan), "planned.py", "exec"), names)
        return types.SimpleNamespace(**names)

    return run


def test_each_stage_builds_its_layers(layered_plan, load):
    module = load(layered_plan)
    assert module.PARTS == [0, 2, 4, 9]
    assert module.RANKS == [[2], [0], [1]]  # stage 0 is on device 2, and device 2 is rank 2
    local = [module.PlannedPipelineModule(module.LAYERS, stage=rank).local for rank in range(3)]
    assert local == [
        ["layers.1", "layers.2"],
        ["layers.3", "layers.4", "layers.5", "norm", "head"],
        ["embed", "layers.0"],
    ]
    assert module.DEEPSPEED_CONFIG == {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 8,
        "train_batch_size": 32,
        "optimizer": {"type": "SGD", "params": {"momentum": 0.9}},
    }


def test_ranks_are_those_of_the_hostfile(language_model, load):
    module = load(plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 4)], on=cluster(2, 3)))
    assert module.HOSTFILE == "h0 slots=3\nh1 slots=3\n"
    assert module.INCLUDE == "h0:0,1,2@h1:1"
    assert module.RANKS == [[0, 2], [1, 3]]
    topology = module.PlannedTopology()
    assert [tuple(topology.get_coord(rank)) for rank in range(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_precision_and_optimizer_are_named(language_model, load):
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)])
    half = dataclasses.replace(
        plan,
        graph=dataclasses.replace(plan.graph, dtype="bfloat16"),
        training=dataclasses.replace(plan.training, optimizer="adamw"),
    )
    config = load(half).DEEPSPEED_CONFIG
    assert config["bf16"] == {"enabled": True}
    assert config["optimizer"] == {"type": "AdamW", "params": {}}


def test_copies_share_the_micro_batches(language_model, load):
    module = load(plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)], recompute=(0, 1)))
    assert module.DEEPSPEED_CONFIG["gradient_accumulation_steps"] == 4
    assert module.ACTIVATION_CHECKPOINT_INTERVAL == 1
    assert module.PlannedPipelineModule(module.LAYERS, stage=0).interval == 1


def test_a_model_of_another_length_is_noticed(layered_plan, load):
    module = load(layered_plan)
    with pytest.raises(ValueError, match="the plan has 9 layers, not 3"):
        module.PlannedPipelineModule(module.LAYERS[:3], stage=0)


def test_tied_layers_are_pointed_out():
    plan = plan_by_modules(capture_language_model(shared=True), ["layers.3"], [(0,), (1,)])
    assert "TiedLayerSpec" in deepspeed(plan)


def test_one_stage_per_device(language_model):
    plan = plan_by_modules(language_model, ["layers.1", "layers.2", "layers.4"], [(0,), (1,), (0,), (1,)])
    with pytest.raises(PlanError, match="4 stages on 2 devices"):
        deepspeed(plan)


def test_every_stage_needs_a_module(language_model):
    n = language_model.num_ops
    plan = plan_by_labels(language_model, [0] * (n - 2) + [1, 1], [(0,), (1,)])
    with pytest.raises(PlanError, match="stage 1 has only ops between modules"):
        deepspeed(plan)


def test_divided_states_are_stage_1(language_model, load):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)])
    assert "zero_optimization" not in load(plan).DEEPSPEED_CONFIG
    for optimizer, untested in (("adamw", False), ("sgd", True)):
        training = dataclasses.replace(plan.training, zero1=True, optimizer=optimizer)
        config = load(dataclasses.replace(plan, training=training)).DEEPSPEED_CONFIG
        assert config["zero_optimization"] == {"stage": 1}
        assert config.get("zero_allow_untested_optimizer", False) is untested


def test_divided_ops_are_refused(language_model):
    plan = divided(plan_by_modules(language_model, ["layers.3"], [(0,), (1,)]), 2)
    with pytest.raises(PlanError, match="DeepSpeed cannot divide ops"):
        deepspeed(plan)
