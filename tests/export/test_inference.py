from __future__ import annotations

import dataclasses
import os
import subprocess

import pytest

from drlpp.errors import PlanError
from drlpp.export.inference import sglang, vllm
from exported_models import cluster, divided, plan_by_modules


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
    with pytest.raises(PlanError, match="SGLang needs a layer on every rank, but stage 1 has no entry of layers"):
        sglang(plan)


def test_the_head_belongs_to_the_last_rank(language_model):
    plan = plan_by_modules(language_model, ["layers.3", "head"], [(0,), (1,), (2,)])
    with pytest.raises(PlanError, match="keeps 'norm' in stage 2"):
        vllm(plan)


def test_copies_on_one_host_are_one_server(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(3, 1), (0, 2)])
    assert 'ENGINE_ARGS="--pipeline-parallel-size 2 --data-parallel-size 2"\n' in vllm(plan)
    assert 'ENGINE_ARGS="--pp-size 2 --dp-size 2"\n' in sglang(plan)
    assert "export CUDA_VISIBLE_DEVICES=3,0,1,2\n" in vllm(plan)
    assert "rank = copy x pipeline ranks + pipeline rank: 3, 0, 1, 2\n" in vllm(plan)


def test_one_copy_on_several_hosts_has_a_command_for_each_node(language_model):
    plan = plan_by_modules(language_model, ["layers.1", "layers.3"], [(0,), (1,), (2,)], on=cluster(2, 2))
    text = vllm(plan)
    assert "#   h0: . FILE; CUDA_VISIBLE_DEVICES=0 vllm serve MODEL $ENGINE_ARGS --nnodes 3 --node-rank 0" in text
    assert "#   h0: . FILE; CUDA_VISIBLE_DEVICES=1 vllm serve MODEL $ENGINE_ARGS --nnodes 3 --node-rank 1" in text
    assert "CUDA_VISIBLE_DEVICES=0 vllm serve MODEL $ENGINE_ARGS --nnodes 3 --node-rank 2 --master-addr h0\n" in text


def test_copies_on_several_hosts(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 3)], on=cluster(2, 2))
    assert "--pipeline-parallel-size 2 --data-parallel-size 2 --data-parallel-size-local 1" in vllm(plan)
    assert "#   h1: . FILE; CUDA_VISIBLE_DEVICES=0,1 vllm serve MODEL $ENGINE_ARGS --nnodes 2 --node-rank 1" in vllm(
        plan
    )
    text = sglang(plan)
    assert "a router joins the 2 servers" in text
    assert 'ENGINE_ARGS="--pp-size 2"\n' in text
    assert (
        "#   h1: . FILE; CUDA_VISIBLE_DEVICES=0,1 python -m sglang.launch_server --model-path MODEL $ENGINE_ARGS\n"
        in text
    )
    across = plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)], on=cluster(2, 2))
    assert "--nnodes 2 --node-rank 1 --dist-init-addr h0:50000" in sglang(across)
    assert "CUDA_VISIBLE_DEVICES=1 vllm serve MODEL $ENGINE_ARGS --nnodes 4 --node-rank 3 --master-addr h0" in vllm(
        across
    )


def test_precision_is_named(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)])
    half = dataclasses.replace(plan, graph=dataclasses.replace(plan.graph, dtype="bfloat16"))
    assert "--dtype bfloat16" in vllm(half)
    assert "--dtype" not in vllm(plan)


def test_groups_are_the_first_to_be_numbered(language_model):
    plan = divided(plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 3)]), 2)
    assert 'ENGINE_ARGS="--tensor-parallel-size 2 --pipeline-parallel-size 2 --data-parallel-size 2"\n' in vllm(plan)
    assert 'ENGINE_ARGS="--tp-size 2 --pp-size 2 --dp-size 2"\n' in sglang(plan)
    assert "pipeline rank) x 2 + tensor-parallel rank: 0, 1, 2, 3, 4, 5, 6, 7\n" in vllm(plan)
    across = divided(plan_by_modules(language_model, ["layers.3"], [(0,), (2,)], on=cluster(2, 4)), 2)
    text = vllm(across)
    assert "CUDA_VISIBLE_DEVICES=0,1 vllm serve MODEL $ENGINE_ARGS --nnodes 2 --node-rank 1 --master-addr h0\n" in text
    with pytest.raises(PlanError, match="vLLM keeps activations between divided ops whole"):
        vllm(divided(plan_by_modules(language_model, ["layers.3"], [(0,), (1,)]), 2, sequence=True))
