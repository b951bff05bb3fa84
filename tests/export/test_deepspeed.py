"""The written module is run against a stand-in for what DeepSpeed's `PipelineModule` has when it partitions."""

from __future__ import annotations

import sys
import types

import pytest

from drlpp.errors import PlanError
from drlpp.export.deepspeed import deepspeed
from drlpp.plan import Plan
from exported_models import capture_language_model, plan_by_labels, plan_by_modules


class PipelineModule:
    """What `deepspeed.pipe.PipelineModule` does before and after it partitions."""

    def __init__(self, layers: list[str], stage: int) -> None:
        self._layer_specs = list(layers)
        self.global_rank = stage
        self._topo = types.SimpleNamespace(get_coord=lambda rank: types.SimpleNamespace(pipe=rank))
        self._partition_layers(method="parameters")

    def _set_bounds(self, start: int, stop: int) -> None:
        self.local = self._layer_specs[start:stop]


@pytest.fixture
def load(monkeypatch):
    def run(plan: Plan) -> types.SimpleNamespace:
        monkeypatch.setitem(sys.modules, "deepspeed", types.ModuleType("deepspeed"))
        monkeypatch.setitem(sys.modules, "deepspeed.pipe", types.SimpleNamespace(PipelineModule=PipelineModule))
        names: dict[str, object] = {}
        exec(compile(deepspeed(plan), "planned.py", "exec"), names)
        return types.SimpleNamespace(**names)

    return run


def test_each_stage_builds_its_layers(layered_plan, load):
    module = load(layered_plan)
    assert module.PARTS == [0, 2, 4, 9]
    local = [module.PlannedPipelineModule(module.LAYERS, stage).local for stage in range(3)]
    assert local == [
        ["embed", "layers.0"],
        ["layers.1", "layers.2"],
        ["layers.3", "layers.4", "layers.5", "norm", "head"],
    ]
    assert module.DEEPSPEED_CONFIG == {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 8,
        "train_batch_size": 32,
    }


def test_copies_share_the_micro_batches(language_model, load):
    module = load(plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)], recompute=(0, 1)))
    assert module.DEEPSPEED_CONFIG["gradient_accumulation_steps"] == 4
    assert module.ACTIVATION_CHECKPOINT_INTERVAL == 1


def test_a_model_of_another_length_is_noticed(layered_plan, load):
    module = load(layered_plan)
    with pytest.raises(ValueError, match="the plan has 9 layers, not 3"):
        module.PlannedPipelineModule(module.LAYERS[:3], 0)


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
