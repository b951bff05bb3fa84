from __future__ import annotations

import dataclasses
import re
import shlex

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from drlpp.capture import capture_module
from drlpp.errors import PlanError
from drlpp.export.megatron import layout, megatron
from exported_models import cluster, divided, plan_by_modules


def stages_of(text: str) -> list[str]:
    """The documented grammar: commas are cosmetic, ``(...)*n`` and ``x*n`` repeat, ``|`` ends a stage."""
    text = text.replace(",", "")
    text = re.sub(r"\(([^)]+)\)\*(\d+)", lambda m: m.group(1) * int(m.group(2)), text)
    text = re.sub(r"(.)\*(\d+)", lambda m: m.group(1) * int(m.group(2)), text)
    assert set(text) <= set("EtmL|")
    return text.split("|")


def arguments(text: str) -> dict[str, str]:
    body = re.search(r"MEGATRON_ARGS=\((.*)\)", text, re.S).group(1)
    words = shlex.split(body)
    return dict(zip(words[::2], words[1::2], strict=True))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_layouts_follow_the_grammar(counts):
    stages = stages_of(layout(counts))
    assert [s.count("t") for s in stages] == counts
    flat = "".join(stages)
    assert flat.startswith("E")
    assert flat.endswith("L")
    assert flat.count("E") == flat.count("L") == 1


def test_arguments(layered_plan):
    found = arguments(megatron(layered_plan))
    assert found["--pipeline-model-parallel-layout"] == "Et|t*2|t*3L"
    assert found["--num-layers"] == "6"
    assert found["--pipeline-model-parallel-size"] == "3"
    assert found["--micro-batch-size"] == "4"
    assert found["--global-batch-size"] == "32"
    assert found["--optimizer"] == "sgd"
    assert found["--sgd-momentum"] == "0.9"
    assert "rank = pipeline rank x copies + copy: 2, 0, 1\n" in megatron(layered_plan)


def test_global_ranks_run_through_the_copies_first(language_model):
    text = megatron(plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 3)], on=cluster(2, 2)))
    assert "rank = pipeline rank x copies + copy: 0, 2, 1, 3\n" in text
    assert "NODE_HOSTS=(h0 h1 h0 h1)\n" in text
    assert 'NODE_GPUS=("0" "0" "1" "1")\n' in text


def test_precision_and_optimizer_are_named(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)])
    assert "--bf16" not in megatron(plan)
    half = dataclasses.replace(
        plan,
        graph=dataclasses.replace(plan.graph, dtype="bfloat16"),
        training=dataclasses.replace(plan.training, optimizer="adamw"),
    )
    assert "    --bf16\n    --optimizer adam\n" in megatron(half)
    half = dataclasses.replace(half, graph=dataclasses.replace(plan.graph, dtype="float16"))
    assert "    --fp16\n" in megatron(half)


def test_the_layers_may_be_the_model_itself():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    graph = capture_module(model, [torch.ones(2, 4)], lambda out: out.square().mean()).graph
    plan = plan_by_modules(graph, ["3"], [(0,), (1,)])
    assert arguments(megatron(plan))["--pipeline-model-parallel-layout"] == "Et*3|t*2L"
    assert "layers are the entries of the model." in megatron(plan)


def test_virtual_stages_and_recomputation(language_model):
    plan = plan_by_modules(
        language_model, ["layers.1", "layers.2", "layers.4"], [(0,), (1,), (0,), (1,)], recompute=(0, 1, 2, 3)
    )
    found = arguments(megatron(plan))
    assert len(stages_of(found["--pipeline-model-parallel-layout"])) == 4
    assert found["--pipeline-model-parallel-size"] == "2"
    assert found["--recompute-granularity"] == "full"


def test_a_stage_of_the_head_alone(language_model):
    plan = plan_by_modules(language_model, ["norm"], [(0,), (1,)])
    assert arguments(megatron(plan))["--pipeline-model-parallel-layout"] == "Et*6|L"


def test_layers_must_be_whole(language_model):
    with pytest.raises(PlanError, match=r"Megatron-LM keeps 'layers\.2' whole"):
        megatron(plan_by_modules(language_model, ["layers.2.down"], [(0,), (1,)]))


def test_folded_placements_are_refused(language_model):
    plan = plan_by_modules(language_model, ["layers.1", "layers.2", "layers.4"], [(0,), (1,), (1,), (0,)])
    with pytest.raises(PlanError, match="puts stage i on pipeline rank i mod 2"):
        megatron(plan)


def test_groups_and_divided_states(language_model):
    plan = divided(plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 3)]), 2)
    found = megatron(plan)
    assert arguments(found)["--tensor-model-parallel-size"] == "2"
    assert "rank = (pipeline rank x copies + copy) x 2 + tensor-parallel rank: 0, 1, 4, 5, 2, 3, 6, 7\n" in found
    assert "\nexport CUDA_DEVICE_MAX_CONNECTIONS=1 " in found
    assert "--sequence-parallel" not in found
    assert "--use-distributed-optimizer" not in found
    more = divided(plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 3)]), 2, sequence=True)
    more = dataclasses.replace(more, training=dataclasses.replace(more.training, zero1=True))
    assert "    --sequence-parallel\n    --use-distributed-optimizer\n" in megatron(more)
