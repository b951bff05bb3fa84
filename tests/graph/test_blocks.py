from __future__ import annotations

import itertools

from drlpp.graph import Edge, Op, OpGraph
from drlpp.graph.blocks import block_of_op


def graph_of(*ops: tuple[str, str]) -> OpGraph:
    """A chain of (module, kind)."""
    names = [f"op{i}" for i in range(len(ops))]
    return OpGraph(
        name="chain",
        ops=tuple(Op(name=n, module=m, kind=k) for n, (m, k) in zip(names, ops, strict=True)),
        edges=tuple(Edge(src=a, dst=b, tensor=a) for a, b in itertools.pairwise(names)),
        tensor_bytes=dict.fromkeys(names, 1.0),
    )


def test_layers_of_a_list():
    graph = graph_of(
        ("embed", "embedding"),
        ("layers.0.attention", "linear"),
        ("layers.0", "add"),
        ("layers.1.attention", "linear"),
        ("layers.1", "add"),
        ("head", "linear"),
    )
    assert block_of_op(graph) == ("", "layers.0", "layers.0", "layers.1", "layers.1", "")


def test_the_outermost_list_that_repeats():
    def stage(i: int, blocks: int) -> list[tuple[str, str]]:
        return [(f"stages.{i}.blocks.{b}.{m}", m) for b in range(blocks) for m in ("conv", "norm")]

    different = block_of_op(graph_of(*stage(0, 2), *stage(1, 3)))
    assert different[:2] == ("stages.0.blocks.0", "stages.0.blocks.0")
    assert different[-1] == "stages.1.blocks.2"
    equal = block_of_op(graph_of(*stage(0, 2), *stage(1, 2)))
    assert set(equal) == {"stages.0", "stages.1"}


def test_a_block_of_one_op_or_without_a_repeat_is_none():
    assert set(block_of_op(graph_of(("mlp.0", "linear"), ("mlp.1", "relu"), ("mlp.2", "linear")))) == {""}
    assert set(block_of_op(graph_of(("a.0.x", "p"), ("a.0.y", "q"), ("a.1.x", "p"), ("a.1.y", "r")))) == {""}


def test_ops_without_a_module():
    assert block_of_op(graph_of(("", "add"), ("", "add"))) == ("", "")
