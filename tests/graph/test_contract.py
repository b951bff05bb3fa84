"""A graph of groups costs what the ops cost."""

import dataclasses

import numpy as np
import pytest

from drlpp.errors import GraphError
from drlpp.graph import Edge, Op, OpGraph, Work
from drlpp.graph.contract import contract

GRAPH = OpGraph(
    name="diamond",
    ops=(
        Op(name="a", kind="linear", forward=Work(4.0, 2.0, 0.0, 1.0), params=("w",), saved=("x",)),
        Op(name="b", kind="relu", forward=Work(1.0, 1.0), saved=("x",)),
        Op(name="c", kind="linear", forward=Work(8.0, 2.0), params=("w",)),
        Op(name="d", kind="add"),
    ),
    edges=(
        Edge(src="a", dst="b", tensor="x", requires_grad=False),
        Edge(src="a", dst="c", tensor="x"),
        Edge(src="b", dst="d", tensor="y"),
        Edge(src="c", dst="d", tensor="z"),
    ),
    tensor_bytes={"x": 8.0, "y": 4.0, "z": 4.0},
    param_bytes={"w": 16.0},
    tensor_fixed_bytes={"x": 2.0},
    samples_per_microbatch=2,
)
TIMES = {"fast": np.arange(12.0).reshape(3, 4)}


def test_work_times_and_names_of_groups():
    small = contract(GRAPH, np.array([0, 1, 1, 2]), TIMES, "small")
    assert [op.name for op in small.ops] == ["group0", "group1", "group2"]
    middle = small.ops[1]
    assert middle.forward == Work(9.0, 3.0, kernels=2.0)
    assert middle.members == ("b", "c")
    assert middle.kind == "linear"
    assert (middle.params, middle.saved) == (("w",), ("x",))
    times = middle.times["fast"]
    assert (times.forward_s, times.input_grad_s, times.weight_grad_s) == (1 + 2, 5 + 6, 9 + 10)
    assert small.ops[0].forward.fixed_bytes == 1.0
    assert small.tensor_fixed_bytes == GRAPH.tensor_fixed_bytes


def test_one_edge_per_value_and_a_gradient_where_any_consumer_has_one():
    small = contract(GRAPH, np.array([0, 1, 1, 2]), TIMES, "small")
    assert [(e.src, e.dst, e.tensor, e.requires_grad) for e in small.edges] == [
        ("group0", "group1", "x", True),
        ("group1", "group2", "y", True),
        ("group1", "group2", "z", True),
    ]


def test_frozen_parameters_and_buffers_stay_what_they_are():
    ops = (GRAPH.ops[0], *(dataclasses.replace(op, buffers=("mask",)) for op in GRAPH.ops[1:3]), GRAPH.ops[3])
    graph = dataclasses.replace(GRAPH, ops=ops, buffer_bytes={"mask": 3.0}, frozen=frozenset({"w"}))
    small = contract(graph, np.array([0, 1, 1, 2]), TIMES, "small")
    assert small.ops[1].buffers == ("mask",)
    assert small.op_frozen_bytes.tolist() == [16.0, 3.0, 0.0]


def test_groups_out_of_order_are_refused():
    with pytest.raises(GraphError, match="against the order"):
        contract(GRAPH, np.array([1, 0, 0, 2]), TIMES, "wrong")
