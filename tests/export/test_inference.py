from __future__ import annotations

import os
import subprocess

import pytest

from drlpp.errors import PlanError
from drlpp.export.inference import sglang, vllm
from exported_models import plan_by_modules


@pytest.mark.parametrize(("export", "name"), [(vllm, "VLLM_PP_LAYER_PARTITION"), (sglang, "SGLANG_PP_LAYER_PARTITION")])
def test_the_shell_sets_the_partition(layered_plan, tmp_path, export, name):
    path = tmp_path / "partition.sh"
    path.write_text(export(layered_plan))
    shown = subprocess.run(
        ["sh", "-c", f". {path}; printenv {name}"], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    numbers = [int(n) for n in shown.stdout.strip().split(",")]
    assert numbers == [1, 2, 3]
    assert len(numbers) == layered_plan.num_stages
    assert sum(numbers) == 6


def test_one_stage_per_rank(language_model):
    plan = plan_by_modules(language_model, ["layers.1", "layers.2", "layers.4"], [(0,), (1,), (0,), (1,)])
    with pytest.raises(PlanError, match="vLLM has one stage on each rank"):
        vllm(plan)


def test_every_rank_needs_a_layer(language_model):
    plan = plan_by_modules(language_model, ["norm"], [(0,), (1,)])
    with pytest.raises(PlanError, match="SGLang needs a layer on every rank, but stage 1 has no entry of 'layers'"):
        sglang(plan)


def test_the_head_belongs_to_the_last_rank(language_model):
    plan = plan_by_modules(language_model, ["layers.3", "head"], [(0,), (1,), (2,)])
    with pytest.raises(PlanError, match="keeps 'norm' in stage 2"):
        vllm(plan)
