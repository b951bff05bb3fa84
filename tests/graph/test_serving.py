"""Serving: what a step reads and what stays in the memory, against sums by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from drlpp.capture import capture_module
from drlpp.cluster import Link, device_preset, load_cluster
from drlpp.cost.sharding import shard
from drlpp.errors import InputError, PlanError
from drlpp.export import EXPORTERS
from drlpp.graph.serving import WORKSPACE, ServingLoad, captured_load, carried_edges, serving_graph
from drlpp.plan import Assignment, Provenance
from drlpp.plan.validation import check_trains
from drlpp.planners.base import Budget
from drlpp.planners.engines.engine import ENGINES
from drlpp.planners.engines.restricted import Restricted
from drlpp.planners.registry import get_planner
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator, simulate
from drlpp.solving import solve
from layered_graphs import decoder_graph

WIDTH, HEADS, KV_HEADS, TOKENS, SAMPLES, WORDS = 64, 8, 2, 16, 2, 100


class Layer(nn.Module):
    """Attention whose keys and values are shared by four heads each, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH)
        self.kv = nn.Linear(WIDTH, 2 * KV_HEADS * WIDTH // HEADS)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, HEADS, -1).transpose(1, 2)
        k, v = (h.view(b, t, KV_HEADS, -1).transpose(1, 2) for h in self.kv(x).chunk(2, -1))
        k, v = (h[:, :, None].expand(-1, -1, HEADS // KV_HEADS, -1, -1).reshape(b, HEADS, t, -1) for h in (k, v))
        a = scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(a.transpose(1, 2).reshape(b, t, WIDTH))


class Decoder(nn.Module):
    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


@pytest.fixture(scope="module")
def decoder():
    tokens = torch.zeros(SAMPLES, TOKENS, dtype=torch.long)
    return capture_module(Decoder(), [tokens], lambda out: out.square().mean()).graph


def test_keys_and_values_are_seen_before_heads_share_them(decoder):
    found = [op.kv_bytes_per_token for op in decoder.ops if op.kv_bytes_per_token]
    assert found == [2 * KV_HEADS * WIDTH // HEADS * 4] * 6
    assert decoder.tokens_per_sample == TOKENS
    assert captured_load(decoder) == ServingLoad(sequences=SAMPLES, context_length=TOKENS)


def test_a_step_reads_weights_once_and_the_cache(decoder):
    served = serving_graph(decoder, ServingLoad(sequences=8, context_length=1000))
    before = {op.name: op for op in decoder.ops}
    cache = 2 * KV_HEADS * WIDTH // HEADS * 4 * 8 * 1000
    for op in served.ops:
        weights = sum(served.param_bytes[p] for p in op.params)
        old = before[op.name]
        assert op.input_grad.flop == op.weight_grad.flop == op.weight_grad.bytes == 0
        if old.kv_bytes_per_token:
            assert served.tensor_bytes[f"{op.name}:cache"] == cache
            assert op.forward.bytes >= cache
            assert op.forward.flop == pytest.approx(old.forward.flop * 8 / 32 * 1000 / TOKENS)
        elif op.module.endswith((".q", ".out")):
            assert op.forward.flop == pytest.approx(old.forward.flop * 8 / 32)
            assert weights <= op.forward.bytes < old.forward.bytes
    assert not any(edge.requires_grad for edge in served.edges)
    assert served.samples_per_microbatch == 8


def test_memory_is_weights_cache_and_workspace(decoder):
    problem = PlanningProblem.build(
        decoder,
        load_cluster("local-2"),
        objective="serving",
        serving=ServingLoad(sequences=8, context_length=1000),
    )
    evaluator = Evaluator(problem)
    result = Restricted(get_planner("dp"), ENGINES["vllm"], 2).solve(problem, Budget(1.0), 0)
    plan = result.plan
    graph = plan.graph
    sent = WIDTH * 8 * 4
    for stage, device in enumerate(s.devices[0] for s in plan.stages):
        ops = [graph.ops[graph.index[name]] for name in plan.stages[stage].ops]
        weights = sum(graph.param_bytes[p] for p in {p for op in ops for p in op.params})
        cache = sum(graph.tensor_bytes.get(f"{op.name}:cache", 0.0) for op in ops)
        expected = weights + cache + graph.tensor_bytes[WORKSPACE]
        assert expected <= plan.prediction.peak_memory_bytes[device] <= expected + 4 * sent
    assert evaluator.evaluate(plan.assignment).bottleneck_s == pytest.approx(plan.prediction.bottleneck_s)
    assert max(simulate(plan).prediction.peak_memory_bytes) == pytest.approx(max(plan.prediction.peak_memory_bytes))


def test_memory_decides_the_split_and_the_file_has_it(decoder):
    cluster = load_cluster("local-2")
    problem = PlanningProblem.build(
        decoder, cluster, objective="serving", serving=ServingLoad(sequences=64, context_length=4000)
    )
    need = sum(decoder.param_bytes.values()) + 64 * 4000 * 6 * 2 * KV_HEADS * WIDTH // HEADS * 4
    types = tuple(dataclasses.replace(t, memory_bytes=int(0.72 * need)) for t in cluster.device_types)
    small = dataclasses.replace(types[0], name="small", memory_bytes=int(0.4 * need))
    host = cluster.hosts[0]
    unequal = dataclasses.replace(
        cluster,
        device_types=(*types, small),
        hosts=(dataclasses.replace(host, devices=(host.devices[0], "small")),),
    )
    problem = dataclasses.replace(problem, cluster=unequal)
    result = Restricted(get_planner("uniform"), ENGINES["sglang"]).solve(problem, Budget(2.0), 0)
    text = EXPORTERS["sglang"].export(result.plan)
    assert "SGLANG_PP_LAYER_PARTITION=4,2" in text or "SGLANG_PP_LAYER_PARTITION=2,4" in text


def test_what_trains_refuses_a_plan_of_serving(decoder):
    problem = PlanningProblem.build(decoder, load_cluster("local-2"), objective="serving")
    plan = Restricted(get_planner("dp"), ENGINES["vllm"]).solve(problem, Budget(1.0), 0).plan
    with pytest.raises(PlanError, match="drlpp run trains, but the plan is for serving"):
        check_trains(plan, "drlpp run")
    for engine in ("megatron", "deepspeed", "torchtitan", "torch-split", "torch-schedule"):
        with pytest.raises(PlanError, match="trains, but the plan is for serving"):
            EXPORTERS[engine].export(plan)


def test_numbers_below_one():
    with pytest.raises(InputError, match="sequences is 0: it must be at least 1"):
        ServingLoad(sequences=0, context_length=5)
    with pytest.raises(InputError, match="context length is -1"):
        ServingLoad(sequences=1, context_length=-1)


def test_a_load_is_for_serving_only(decoder):
    with pytest.raises(InputError, match="a load of sequences is for objective serving"):
        PlanningProblem.build(decoder, load_cluster("local-2"), serving=ServingLoad(sequences=1, context_length=1))


def test_groups_divide_heads_with_their_cache(decoder):
    served = serving_graph(decoder, ServingLoad(sequences=64, context_length=4096))
    assert {split.axis for op in served.ops for split in op.splits} == {"rows", "columns", "vocabulary", "heads"}
    device = dataclasses.replace(device_preset("h100-sxm5-80gb"), host_op_s=0.0)
    found = shard(served, device, Link(bandwidth=1e14), 2, sequence=False)
    attention = next(i for i, op in enumerate(served.ops) if op.kind.endswith("scaled_dot_product_attention"))
    assert served.ops[attention].splits[found.choice[attention]].axis == "heads"
    assert {s.size for op in served.ops for s in op.splits if s.axis == "heads"} == {KV_HEADS}  # eight share them
    cache = f"{served.ops[attention].name}:cache"
    assert found.graph.tensor_bytes[cache] == served.tensor_bytes[cache] / 2
    assert found.graph.tensor_bytes[WORKSPACE] == served.tensor_bytes[WORKSPACE]
    assert not found.input_grad_s.any()
    assert not found.step_s.any()


@pytest.mark.parametrize(("engine", "option"), [("vllm", "--tensor-parallel-size 2"), ("sglang", "--tp-size 2")])
def test_engines_that_serve_are_given_groups(decoder, engine, option):
    problem = PlanningProblem.build(
        decoder, load_cluster("local-4"), objective="serving", serving=ServingLoad(sequences=8, context_length=1000)
    ).with_parallelism(ENGINES[engine].parallelism, one_degree=True)
    problem = dataclasses.replace(problem, space=dataclasses.replace(problem.space, tensor=2))
    plan = solve(problem, Restricted(get_planner("uniform"), ENGINES[engine]), budget=2.0).plan
    assert {stage.sharding.tensor for stage in plan.stages} == {2}
    assert option in EXPORTERS[engine].export(plan)
    assert simulate(plan).prediction.bottleneck_s == pytest.approx(plan.prediction.bottleneck_s)


def test_what_comes_from_parameters_is_sent_and_masks_are_not():
    graph = decoder_graph(2)
    still = dataclasses.replace(graph, edges=tuple(dataclasses.replace(e, requires_grad=False) for e in graph.edges))
    assert carried_edges(graph) == [e.requires_grad for e in graph.edges]
    assert carried_edges(still) == [e.src != "mask" for e in graph.edges]


def test_a_skip_over_a_stage_is_no_plan_for_a_server():
    """Without gradients, too, each pipeline rank hears of the one before it only."""
    problem = PlanningProblem.build(
        decoder_graph(4, skip=True),
        load_cluster("local-4"),
        objective="serving",
        serving=ServingLoad(sequences=1, context_length=16),
    )
    stage = [
        int(op.module.split(".")[2]) if ".layers." in op.module else 3 * (op.name in ("norm", "head", "loss"))
        for op in problem.graph.ops
    ]
    plan = Evaluator(problem).make_plan(
        Assignment(np.array(stage), ((0,), (1,), (2,), (3,))), Provenance(planner="hand")
    )
    with pytest.raises(PlanError, match="vLLM sends a stage's output to the next stage only, but stage 0 sends 'out0'"):
        EXPORTERS["vllm"].export(plan)
