"""Splits of generated transformers."""

import dataclasses

import pytest

from drlpp.graph import PARTIAL_SUM, Part
from drlpp.graph.generate.transformers import Transformer, transformer_graph

SHAPE = Transformer(layers=2, hidden=64, heads=8, kv_heads=4, ffn=96, vocab=128, seq=16, gated=True, rotary=True)


def splits(shape: Transformer) -> dict[str, dict[str, int]]:
    """Name in the first layer, or outside of layers -> axis -> size."""
    return {
        op.name.removeprefix("layers.0."): {s.axis: s.size for s in op.splits}
        for op in transformer_graph(shape).ops
        if not op.name.startswith("layers.1")
    }


def test_columns_rows_heads_vocabulary_and_sequence():
    found = splits(SHAPE)
    assert found["attention.q"] == found["attention.k"] == {"columns": 4, "sequence": 16}
    assert found["attention.sdpa"] == {"heads": 4}
    assert found["attention.out"] == {"rows": 4, "sequence": 16}
    assert found["mlp.swiglu"] == {"columns": 96, "sequence": 16}
    assert found["mlp.down"] == {"rows": 96, "sequence": 16}
    assert found["norm1"] == found["mlp.add"] == {"sequence": 16}
    assert found["embedding"] == {"vocabulary": 128, "sequence": 16}
    assert found["head"] == {"columns": 128, "sequence": 16}
    assert found["loss"] == {"vocabulary": 128}


@pytest.mark.parametrize("attention", ["flash", "eager", "fused"])
@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_what_is_given_cut_can_be_read_cut(attention, dropout, gated):
    shape = dataclasses.replace(SHAPE, attention=attention, dropout=dropout, gated=gated, rotary=gated)
    graph = transformer_graph(shape)
    given = {part for op in graph.ops for split in op.splits for part in split.gives}
    for op in graph.ops:
        for split in op.splits:
            inner = [part for part in split.reads if part.tensor not in op.params]
            assert split.axis == "sequence" or not inner or all(part in given for part in inner), (op.name, split)


def test_a_projection_back_gives_a_partial_sum_and_keeps_its_part():
    graph = transformer_graph(SHAPE)
    op = next(op for op in graph.ops if op.name == "layers.0.mlp.down")
    rows = op.splits[0]
    assert rows.reads == (Part("layers.0.mlp.swiglu", 2), Part("layers.0.mlp.down.weight", 1))
    assert rows.gives == (Part("layers.0.mlp.down", PARTIAL_SUM),)
    assert rows.keeps == op.saved


def test_without_a_vocabulary_the_input_is_whole():
    assert splits(dataclasses.replace(SHAPE, vocab=0))["input"] == {}
