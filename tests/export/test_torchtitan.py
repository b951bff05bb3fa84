from __future__ import annotations

import copy
import dataclasses
import tomllib

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.errors import PlanError
from drlpp.export.torchtitan import torchtitan
from drlpp.graph.generate.synthetic import chain_graph
from exported_models import (
    LanguageModel,
    WithLoss,
    capture_language_model,
    divided,
    example_tokens,
    plan_by_labels,
    plan_by_modules,
    right_before_left,
)


def kept_parameters(model: nn.Module, names: list[str]) -> set[str]:
    """What is left of a model when only these modules stay, by torchtitan's documented rules."""
    part = copy.deepcopy(model)
    left: set[str] = set()
    for name, child in part.named_children():
        if isinstance(child, nn.ModuleList):
            entries = {int(n.split(".")[1]) for n in names if n.startswith(f"{name}.")}
            left |= {f"{name}.{i}.{p}" for i in entries for p, _ in child[i].named_parameters()}
        elif name in names:
            left |= {f"{name}.{p}" for p, _ in child.named_parameters()}
    return left


def test_parts_have_the_parameters_of_their_stages(layered_plan):
    config = tomllib.loads(torchtitan(layered_plan))
    parts = config["parallelism"]["module_fqns_per_model_part"]
    index = layered_plan.graph.index
    for stage, names in zip(layered_plan.stages, parts, strict=True):
        expected = {p for name in stage.ops for p in layered_plan.graph.ops[index[name]].params}
        assert kept_parameters(LanguageModel(), names) == expected


def test_sizes(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)], num_microbatches=8)
    config = tomllib.loads(torchtitan(plan))
    assert config["parallelism"]["pipeline_parallel_degree"] == 2
    assert config["parallelism"]["data_parallel_replicate_degree"] == 2
    assert config["parallelism"]["pipeline_parallel_microbatch_size"] == 4
    assert config["parallelism"]["pipeline_parallel_schedule"] == "1F1B"
    assert config["training"] == {
        "local_batch_size": 16,
        "global_batch_size": 32,
        "dtype": "float32",
        "mixed_precision_param": "float32",
    }
    assert config["optimizer"] == {"name": "SGD"}
    assert config["activation_checkpoint"]["mode"] == "none"


def test_several_stages_on_a_rank_take_their_order_from_the_csv(language_model):
    looped = plan_by_modules(
        language_model, ["layers.1", "layers.2", "layers.4"], [(0,), (1,), (0,), (1,)], recompute=(0, 1, 2, 3)
    )
    config = tomllib.loads(torchtitan(looped))
    assert config["parallelism"]["pipeline_parallel_schedule"] == "PipelineScheduleMulti"
    assert config["parallelism"]["pipeline_parallel_schedule_csv"] == "schedule.csv"
    assert config["activation_checkpoint"]["mode"] == "full"


def test_a_list_that_is_whole_is_named_with_its_entries(language_model):
    config = tomllib.loads(torchtitan(plan_by_modules(language_model, ["norm"], [(0,), (1,)])))
    first, second = config["parallelism"]["module_fqns_per_model_part"]
    assert first == ["embed", "layers", *(f"layers.{i}" for i in range(6))]
    assert second == ["norm", "head"]


def test_a_wrapper_is_taken_off_the_names():
    graph = capture_module(WithLoss(LanguageModel()), [example_tokens()]).graph
    config = tomllib.loads(torchtitan(plan_by_modules(graph, ["model.layers.3"], [(0,), (1,)])))
    parts = config["parallelism"]["module_fqns_per_model_part"]
    assert parts[0] == ["embed", "layers.0", "layers.1", "layers.2"]
    assert parts[1][-1] == "head"


def test_layers_must_be_whole(language_model):
    with pytest.raises(PlanError, match=r"the plan splits 'layers\.2'"):
        torchtitan(plan_by_modules(language_model, ["layers.2.down"], [(0,), (1,)]))


def test_modules_must_run_in_order(branches):
    with pytest.raises(PlanError, match=r"'right\.0' is in stage 0 and runs after modules of stage 1"):
        torchtitan(right_before_left(branches))


def test_graphs_without_modules_are_refused():
    with pytest.raises(PlanError, match="stage 0 has none: capture a PyTorch model"):
        torchtitan(plan_by_labels(chain_graph(4), [0, 0, 1, 1], [(0,), (1,)]))


def test_tied_weights_are_refused():
    graph = capture_language_model(shared=True)
    with pytest.raises(PlanError, match="tied weights"):
        torchtitan(plan_by_modules(graph, ["layers.3"], [(0,), (1,)]))


class Decoder(nn.Module):
    """Named as decoders of transformers are: all but the head is below ``model``."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Module()
        language = LanguageModel()
        inner.embed_tokens, inner.layers, inner.norm = language.embed, language.layers, language.norm
        inner.rotary_emb = Positions()
        self.model, self.lm_head = inner, language.head

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.model.embed_tokens(tokens)
        positions = self.model.rotary_emb(h)
        for layer in self.model.layers:
            h = layer(h) + positions
        return self.lm_head(self.model.norm(h))


class Positions(nn.Module):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.arange(h.shape[1], device=h.device)[:, None] * 0.1


def test_names_below_the_inner_model_are_those_of_torchtitan():
    graph = capture_module(Decoder(), [example_tokens()], lambda out: out.square().mean()).graph
    config = tomllib.loads(torchtitan(plan_by_modules(graph, ["model.layers.2"], [(0,), (1,)])))
    first, second = config["parallelism"]["module_fqns_per_model_part"]
    assert first == ["tok_embeddings", "rotary_emb", "layers.0", "layers.1"]
    assert set(second) == {"layers.2", "layers.3", "layers.4", "layers.5", "norm", "lm_head", "rotary_emb"}


def test_precision_is_named(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)])
    half = dataclasses.replace(plan, graph=dataclasses.replace(plan.graph, dtype="bfloat16"))
    assert tomllib.loads(torchtitan(half))["training"]["dtype"] == "bfloat16"
    half = dataclasses.replace(plan, graph=dataclasses.replace(plan.graph, dtype="float16"))
    with pytest.raises(PlanError, match="torchtitan trains in float32 or bfloat16"):
        torchtitan(half)


def test_groups_that_divide_ops(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 3)])
    text = torchtitan(divided(plan, 2, sequence=True))
    degrees = tomllib.loads(text)["parallelism"]
    names = ("pipeline_parallel_degree", "data_parallel_replicate_degree", "tensor_parallel_degree")
    assert [degrees[name] for name in names] == [2, 2, 2]
    assert "+ copy) x 2 + tensor-parallel rank: 0, 1, 4, 5, 2, 3, 6, 7\n" in text
    assert "which the plan does not count on" not in text
    assert "which the plan does not count on" in torchtitan(divided(plan, 2))
    zero1 = dataclasses.replace(plan.training, zero1=True)
    with pytest.raises(PlanError, match="torchtitan cannot divide optimizer states"):
        torchtitan(dataclasses.replace(plan, training=zero1))
