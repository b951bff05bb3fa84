"""The result of sharing."""

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Link
from drlpp.cluster.devices import device_preset
from drlpp.cost.sharding import shard
from drlpp.graph import PARTIAL_SUM, Edge, Op, OpGraph, Part, Split, Work


def product(name: str, read: str, splits: tuple[Split, ...]) -> Op:
    work = Work.of(2e11, 1.6e8, 1, 1e7)
    return Op(
        name=name, kind="aten.linear", forward=work, input_grad=work, weight_grad=work, params=(f"{name}.weight",),
        saved=(read,), output_bytes=4e7, splits=splits,
    )  # fmt: skip


def pair() -> OpGraph:
    columns = Split("columns", 8, (Part("a.weight", 0),), (Part("a", 1),))
    rows = Split("rows", 8, (Part("a", 1), Part("b.weight", 1)), (Part("b", PARTIAL_SUM),), ("a",))
    ops = (
        Op(name="x", kind="input"),
        product("a", "x", (columns,)),
        product("b", "a", (rows,)),
        Op(name="y", kind="k"),
    )
    edges = tuple(Edge(src=src, dst=dst, tensor=src) for src, dst in (("x", "a"), ("a", "b"), ("b", "y")))
    return OpGraph(
        name="pair",
        ops=ops,
        edges=edges,
        tensor_bytes={"x": 4e7, "a": 4e7, "b": 4e7},
        param_bytes={"a.weight": 4e7, "b.weight": 4e7},
    )


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_seconds_are_charged_where_the_moves_are(degree):
    device = dataclasses.replace(device_preset("a100-sxm4-80gb"), host_op_s=0.0)
    found = shard(pair(), device, Link(bandwidth=3e11, latency_s=1e-5), degree, sequence=False)
    assert found.choice == (-1, 0, 0, -1)
    assert [(m.tensor, m.phase, m.op) for m in found.moves] == [("x", "backward", 1), ("b", "forward", 2)]
    forward, backward = (
        [sum(m.seconds for m in found.moves if m.op == i and m.phase == phase) for i in range(4)]
        for phase in ("forward", "backward")
    )
    assert np.allclose(found.forward_s, forward)
    assert np.allclose(found.input_grad_s, backward)
    assert found.graph.tensor_bytes == {"x": 4e7, "a": 4e7 / degree, "b": 4e7}
    assert found.graph.param_bytes == {"a.weight": 4e7 / degree, "b.weight": 4e7 / degree}
    assert not found.step_s.any()
