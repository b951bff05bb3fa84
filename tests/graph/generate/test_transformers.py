"""Generated transformers: their parameters and work by hand, and against a captured model of the same shape."""

import dataclasses

import pytest

from drlpp.errors import GraphError
from drlpp.graph.blocks import block_of_op
from drlpp.graph.generate.transformers import COLLECTIVES, Transformer, transformer_graph

SMALL = Transformer(layers=2, hidden=8, heads=2, ffn=32, vocab=11, seq=6, batch=3, dtype="float32")


def total_flop(shape: Transformer, kinds: str) -> float:
    return sum(op.forward.flop for op in transformer_graph(shape).ops if kinds in op.kind)


def test_parameters_of_gpt():
    graph = transformer_graph(SMALL)
    h, layer = 8, 12 * 8 * 8 + 13 * 8  # weights, biases and two norms of a layer
    assert sum(graph.param_bytes.values()) == 4 * (2 * layer + 11 * h + 6 * h + 2 * h + 11 * h)
    tied = transformer_graph(dataclasses.replace(SMALL, tied=True))
    assert sum(graph.param_bytes.values()) - sum(tied.param_bytes.values()) == 4 * 11 * h


def test_parameters_of_llama_with_fewer_heads_of_keys():
    shape = dataclasses.replace(SMALL, gated=True, rotary=True, kv_heads=1)
    h, kv, ffn = 8, 4, 32
    layer = 2 * h * h + 2 * h * kv + 3 * h * ffn + 2 * h
    assert sum(transformer_graph(shape).param_bytes.values()) == 4 * (2 * layer + 11 * h + h + 11 * h)


def test_work_of_products_and_attention():
    tokens, h = 18, 8
    products = 2 * (2 * tokens * h * 3 * h + 2 * tokens * h * h + 2 * 2 * tokens * h * 32) + 2 * tokens * h * 11
    assert total_flop(SMALL, "linear") == products
    assert total_flop(SMALL, "attention") == 2 * 2 * tokens * 6 * h  # a causal mask hides half
    assert total_flop(dataclasses.replace(SMALL, causal=False), "attention") == 2 * 4 * tokens * 6 * h
    assert total_flop(dataclasses.replace(SMALL, attention="eager"), "bmm") == 2 * 4 * tokens * 6 * h


def test_layers_are_repeated_blocks():
    for attention in ("flash", "eager", "fused"):
        shape = dataclasses.replace(SMALL, attention=attention, dropout=True)
        blocks = set(block_of_op(transformer_graph(shape)))
        assert blocks == {"", "layers.0", "layers.1"}


def test_autocast_moves_more_and_a_second_pass_less():
    low = dataclasses.replace(SMALL, dtype="bfloat16")
    autocast = dataclasses.replace(low, autocast=True)
    again = dataclasses.replace(autocast, cast_once=True)
    moved = [sum(op.forward.bytes for op in transformer_graph(s).ops) for s in (low, autocast, again)]
    assert moved[0] < moved[2] < moved[1]
    assert sum(transformer_graph(autocast).param_bytes.values()) == sum(transformer_graph(SMALL).param_bytes.values())


def test_without_a_vocabulary_it_is_layers_alone():
    graph = transformer_graph(dataclasses.replace(SMALL, vocab=0))
    assert graph.ops[0].kind == "input"
    assert not any(op.kind.endswith("loss") for op in graph.ops)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "must be at least 1"),
        ({"heads": 3}, "must be a multiple"),
        ({"heads": 2, "kv_heads": 4}, "must be a multiple"),
        ({"tensor": 0}, "for 0 members"),
        ({"tensor": 4}, "members must divide heads and width"),
        ({"tensor": 2, "sequence": True, "seq": 5}, "and the sequence where it is divided"),
        ({"dtype": "int8"}, "use one of float32, bfloat16, float16"),
    ],
)
def test_shapes_that_do_not_exist(change, message):
    with pytest.raises(GraphError, match=message):
        dataclasses.replace(SMALL, **change)


def works(shape: Transformer) -> float:
    ops = [op for op in transformer_graph(shape).ops if op.kind in ("aten.linear", "aten.bmm")]
    return sum(w.flop for op in ops for w in (op.forward, op.input_grad, op.weight_grad))


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("change", [{}, {"gated": True, "rotary": True}, {"attention": "eager", "dropout": True}])
def test_members_divide_products_and_their_parameters(change, sequence):
    whole = dataclasses.replace(SMALL, vocab=12, **change)
    member = dataclasses.replace(whole, tensor=2, sequence=sequence)
    assert works(member) * 2 == works(whole)
    params = [transformer_graph(s).param_bytes for s in (whole, member)]
    halves = {n for n in params[0] if n.endswith(("qkv.weight", "up.weight", "embedding.weight", "head.weight"))}
    for name in halves:
        assert params[1][name] * 2 == params[0][name]
    kinds = [op.kind for op in transformer_graph(member).ops if op.kind in COLLECTIVES]
    # per layer two sums; beside them the embedding's, and with a divided sequence what comes before products
    assert len(kinds) == (2 * 4 + 2 if sequence else 2 * 2 + 1)


def test_a_divided_sequence_halves_what_is_kept_between_products():
    kept = []
    for sequence in (False, True):
        shape = dataclasses.replace(SMALL, tensor=2, vocab=12, sequence=sequence)
        graph = transformer_graph(shape)
        kept.append(sum(graph.tensor_bytes[t] for t in {t for op in graph.ops for t in op.saved} if "norm" in t))
    assert kept[0] == 2 * kept[1]


def test_attention_that_is_computed_again_keeps_its_inputs_only():
    eager = dataclasses.replace(SMALL, attention="eager", dropout=True)
    chosen = dataclasses.replace(eager, selective=True)
    graphs = [transformer_graph(s) for s in (eager, chosen)]
    saved = [{t for op in g.ops for t in op.saved} for g in graphs]
    assert {t for t in saved[0] - saved[1] if "scores" in t or "softmax" in t}
    assert not {t for t in saved[1] if "scores" in t or "softmax" in t}
    again = [sum(op.input_grad.flop for op in g.ops if op.kind == "aten.bmm") for g in graphs]
    assert again[1] == 1.5 * again[0]


EXPERTS = dataclasses.replace(SMALL, gated=True, experts=4, active=2)


def test_a_mixture_keeps_all_experts_and_computes_those_that_are_active():
    one = dataclasses.replace(EXPERTS, experts=0)
    h, ffn, tokens = 8, 32, 18
    parameters = [sum(transformer_graph(s).param_bytes.values()) for s in (EXPERTS, one)]
    assert parameters[0] - parameters[1] == 4 * 2 * (3 * 3 * h * ffn + 4 * h)
    assert total_flop(EXPERTS, "grouped_mm") == 2 * 3 * 2 * (2 * tokens) * h * ffn
    assert (
        total_flop(EXPERTS, "linear")
        == total_flop(one, "linear") - 2 * 3 * 2 * tokens * h * ffn + 2 * 2 * tokens * h * 4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active": 5}, "at least 1 and at most all experts"),
        ({"gated": False}, "which are gated"),
        ({"tensor": 2}, "give tensor=1"),
    ],
)
def test_mixtures_that_cannot_be(change, message):
    with pytest.raises(GraphError, match=message):
        dataclasses.replace(EXPERTS, **change)
