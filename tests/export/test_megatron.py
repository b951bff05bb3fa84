from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drlpp.errors import PlanError
from drlpp.export.megatron import layout, megatron
from exported_models import plan_by_modules


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
    assert "per data-parallel copy: 2, 0, 1" in megatron(layered_plan)


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
