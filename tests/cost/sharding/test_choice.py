"""How a group shares the ops of a graph."""

import dataclasses
import math
import random
from collections import Counter

import pytest

from drlpp.capture import capture_graph
from drlpp.cluster import Link
from drlpp.cluster.devices import device_preset
from drlpp.cost.op_times import device_times
from drlpp.cost.sharding import ShardedGraph, shard
from drlpp.cost.sharding import classes as classes_module
from drlpp.cost.sharding.choice import Sharing
from drlpp.errors import InputError
from drlpp.graph import OpGraph
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.graph.generate.transformers import Transformer, transformer_graph
from drlpp.graph.mixed_precision import at_precision

LINK = Link(bandwidth=450e9, latency_s=8e-6)
DEVICE = dataclasses.replace(device_preset("h100-sxm5-80gb"), host_op_s=0.0)
LLAMA = (
    "transformers:LlamaForCausalLM?num_hidden_layers={}&hidden_size=4096&num_attention_heads=32&num_key_value_heads=8"
    "&intermediate_size=11008&seq_len=2048&batch_size=1&vocab_size=32000"
)


@pytest.fixture(scope="module")
def llama() -> OpGraph:
    return at_precision(capture_graph(LLAMA.format(2)), "bfloat16", main_parameters=True)


def total_s(graph: OpGraph, found: ShardedGraph) -> float:
    own = device_times(found.graph, DEVICE).sum()
    return float(own + found.forward_s.sum() + found.input_grad_s.sum() + found.step_s.sum())


def axes(graph: OpGraph, found: ShardedGraph) -> dict[str, str]:
    """Parameter -> the axis along which its reader is divided."""
    return {
        p.rpartition(".weight")[0].rpartition(".")[2]: op.splits[k].axis if k >= 0 else ""
        for op, k in zip(graph.ops, found.choice, strict=True)
        for p in op.params
    }


def test_llama_without_sequence_is_what_megatron_does(llama):
    found = shard(llama, DEVICE, LINK, 8, sequence=False)
    chosen = axes(llama, found)
    assert {chosen[p] for p in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")} == {"columns"}
    assert {chosen[p] for p in ("o_proj", "down_proj")} == {"rows"}
    assert chosen["embed_tokens"] == "vocabulary"
    kinds = Counter((m.phase, m.source, m.target) for m in found.moves)
    partial = (-1, ())
    assert kinds == {("forward", partial, None): 2 * 2 + 1, ("backward", partial, None): 2 * 2 + 1}


def test_llama_with_sequence_gathers_and_scatters(llama):
    found = shard(llama, DEVICE, LINK, 8, sequence=True, num_microbatches=8)
    inner = [m for m in found.moves if "embed" not in m.tensor and not m.tensor.startswith("to_")]
    kinds = Counter((m.phase, m.source, m.target) for m in inner)
    partial, cut = (-1, ()), (1, ())
    assert kinds["forward", partial, cut] == kinds["backward", cut, None] == 2 * 2
    assert kinds["forward", cut, None] == kinds["backward", partial, cut] == 2 * 2 + 1
    norms = [p for p in found.partial_gradients if "norm" in p]
    assert len(norms) == 2 * 2 + 1


def test_members_hold_their_parts(llama):
    found = shard(llama, DEVICE, LINK, 4, sequence=False)
    held = found.graph.param_bytes
    for name, size in llama.param_bytes.items():
        assert held[name] == (size if "norm" in name else size / 4)
    assert found.graph.ops[0].splits == ()


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("degree", [2, 4])
def test_equal_blocks_are_divided_as_op_by_op(llama, degree, sequence, monkeypatch):
    alone = shard(llama, DEVICE, LINK, degree, sequence=sequence, num_microbatches=8)
    monkeypatch.setattr(classes_module, "EXACT_OPS", 10)
    alike = shard(llama, DEVICE, LINK, degree, sequence=sequence, num_microbatches=8)
    assert total_s(llama, alike) <= total_s(llama, alone) * (1 + 1e-3)


@pytest.mark.parametrize("bandwidth", [1e6, 1e9, 1e11])
def test_no_choice_is_slower_than_the_whole(llama, bandwidth):
    found = shard(llama, DEVICE, Link(bandwidth=bandwidth, latency_s=1e-4), 2, sequence=True)
    assert total_s(llama, found) <= float(device_times(llama, DEVICE).sum()) * (1 + 1e-9)
    if bandwidth == 1e6:
        assert not found.moves


def test_the_program_prices_a_choice_as_the_result_does(llama):
    sharing = Sharing(llama, DEVICE, LINK, 4, sequence=True, num_microbatches=8)
    program = sharing.program(0.0, with_host=False)
    rng, priced = random.Random(0), 0
    choice = sharing.best(0.0, with_host=False)
    for _ in range(60):
        k = rng.randrange(llama.num_ops)
        other = [*choice]
        other[k] = rng.randrange(len(program.seconds[k]))
        price = program.objective(other)
        if not math.isinf(price):
            assert sharing.total_s(sharing.sharded(other)) == pytest.approx(price)
            assert price >= program.objective(choice) * (1 - 1e-6)
            priced += 1
    assert priced > 20


def test_a_slow_host_leaves_small_ops_whole(llama):
    slow = dataclasses.replace(DEVICE, host_op_s=1e-4)
    found = shard(llama, slow, LINK, 4, sequence=True)
    own = float(device_times(found.graph, slow).sum() + found.forward_s.sum() + found.input_grad_s.sum())
    assert own <= float(device_times(llama, slow).sum()) * (1 + 1e-9)
    assert "columns" in axes(llama, found).values()


def test_one_device_has_everything(llama):
    found = shard(llama, DEVICE, LINK, 1, sequence=True)
    assert set(found.choice) == {-1}
    assert found.graph == dataclasses.replace(llama, ops=tuple(dataclasses.replace(op, splits=()) for op in llama.ops))


def test_a_degree_that_no_axis_fits_leaves_all_whole(llama):
    found = shard(llama, DEVICE, LINK, 7, sequence=True)
    assert set(found.choice) == {-1}
    assert found.moves == ()


def test_the_choice_is_the_same_every_time(llama):
    first, second = (shard(llama, DEVICE, LINK, 4, sequence=True).choice for _ in range(2))
    assert first == second


def test_graphs_without_splits_are_refused():
    with pytest.raises(InputError, match="says of no op how it may be divided, so a group of 2 devices"):
        shard(chain_graph(3), DEVICE, LINK, 2, sequence=False)


def test_a_group_has_devices(llama):
    with pytest.raises(InputError, match="a group has 0 devices"):
        shard(llama, DEVICE, LINK, 0, sequence=False)


@pytest.mark.parametrize(("sequence", "each_way"), [(False, 2), (True, 4)])
def test_a_generated_transformer_is_divided_as_engines_do(sequence, each_way):
    shape = Transformer(layers=24, hidden=4096, heads=32, ffn=16384, vocab=51200, seq=2048, dropout=True)
    graph = transformer_graph(shape)
    found = shard(graph, DEVICE, LINK, 8, sequence=sequence, num_microbatches=16)
    inner = [m for m in found.moves if m.tensor.startswith("layers.10.")]
    assert Counter(m.phase for m in inner) == {"forward": each_way, "backward": each_way}
    whole, held = sum(graph.param_bytes.values()), sum(found.graph.param_bytes.values())
    assert held == pytest.approx(whole / 8, rel=0.02)


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("change", [{}, {"gated": True, "rotary": True}, {"attention": "eager", "dropout": True}])
def test_a_member_computes_what_a_member_of_megatrons_groups_does(change, sequence):
    shape = Transformer(layers=12, hidden=4096, heads=32, ffn=16384, vocab=51200, seq=2048, batch=2, **change)
    wanted = transformer_graph(dataclasses.replace(shape, tensor=8, sequence=sequence))
    found = shard(transformer_graph(shape), DEVICE, LINK, 8, sequence=sequence, num_microbatches=16).graph
    for part in ("forward", "input_grad", "weight_grad"):
        for amount, error in (("flop", 1e-9), ("outputs", 1e-9), ("bytes", 0.005)):
            ours, theirs = (sum(getattr(getattr(op, part), amount) for op in g.ops) for g in (found, wanted))
            assert ours == pytest.approx(theirs, rel=error), (part, amount)
    assert sum(found.param_bytes.values()) == pytest.approx(sum(wanted.param_bytes.values()), rel=1e-3)
    kept = [sum(g.tensor_bytes[t] for t in {t for op in g.ops for t in op.saved}) for g in (found, wanted)]
    if sequence:  # Megatron keeps its part of what it gathers, and gathers again in the backward pass
        assert kept[1] < kept[0] < 2 * kept[1]
    else:
        assert kept[0] == pytest.approx(kept[1], rel=1e-6)
