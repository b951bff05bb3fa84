from __future__ import annotations

import copy
import tomllib

import pytest
from torch import nn

from drlpp.capture import capture_module
from drlpp.errors import PlanError
from drlpp.export.torchtitan import torchtitan
from drlpp.graph.generate.synthetic import chain_graph
from exported_models import (
    LanguageModel,
    WithLoss,
    capture_language_model,
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
    assert config["training"] == {"local_batch_size": 16, "global_batch_size": 32}
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
