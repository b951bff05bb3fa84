"""Ops that are alike."""

import dataclasses

from drlpp.cost.sharding import classes
from drlpp.cost.sharding.classes import equal_ops
from drlpp.graph import Op, OpGraph, Part, Split
from drlpp.graph.generate.transformers import Transformer, transformer_graph

SHAPE = Transformer(layers=5, hidden=64, heads=4, ffn=128, vocab=256, seq=16)


def test_equal_blocks_have_one_class_per_place(monkeypatch):
    monkeypatch.setattr(classes, "EXACT_OPS", 10)
    graph = transformer_graph(SHAPE)
    found = equal_ops(graph)
    first, last = (
        [k for k, op in zip(found, graph.ops, strict=True) if op.module.startswith(f"layers.{i}")] for i in (0, 4)
    )
    assert first == last
    assert len(set(found)) == graph.num_ops - 4 * len(first)


def test_blocks_with_other_splits_are_not_alike(monkeypatch):
    monkeypatch.setattr(classes, "EXACT_OPS", 1)
    ops = [Op(name=f"{k}{i}", kind="k", module=f"h.{i}.m") for i in range(3) for k in "ab"]
    ops[0] = dataclasses.replace(ops[0], splits=(Split("rows", 2, (Part("x", 0),)),))
    graph = OpGraph(name="g", ops=tuple(ops), edges=(), tensor_bytes={})
    assert equal_ops(graph) == [0, 1, 2, 3, 2, 3]


def test_small_graphs_are_taken_op_by_op():
    graph = transformer_graph(SHAPE)
    assert equal_ops(graph) == list(range(graph.num_ops))


def test_a_long_list_of_single_layers_takes_turns(monkeypatch):
    monkeypatch.setattr(classes, "EXACT_OPS", 3)
    ops = [Op(name=str(i), kind="ab"[i % 2], module=str(i)) for i in range(8)]
    graph = OpGraph(name="g", ops=tuple(ops), edges=(), tensor_bytes={})
    assert equal_ops(graph) == [0, 1, 2, 3, 0, 1, 2, 3]
