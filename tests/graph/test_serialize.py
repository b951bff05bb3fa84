"""Graphs as JSON."""

import dataclasses
import json

import numpy as np
import pytest

from drlpp.errors import GraphError
from drlpp.graph import Edge, Op, OpGraph, Work, graph_from_dict, graph_hash, graph_to_dict, save_graph
from drlpp.graph.generate.synthetic import random_graph
from drlpp.graph.readers import read_graph


@pytest.mark.parametrize("measured", [True, False])
def test_round_trip(tmp_path, measured):
    graph = random_graph(np.random.default_rng(0), 30, measured=measured)
    save_graph(graph, tmp_path / "g.json")
    back = read_graph(tmp_path / "g.json")
    assert graph_to_dict(back) | {"source": ""} == graph_to_dict(graph)
    assert graph_hash(back) == graph_hash(graph)


def test_unusual_fields_survive():
    graph = OpGraph(
        name="g",
        ops=(
            Op(name="a", kind="k", module="m.0", members=("x", "y"), params=("w",), buffers=("mask",)),
            Op(name="b", kind="k"),
        ),
        edges=(
            Edge(src="a", dst="b", tensor="t", requires_grad=False, transfer_s=0.5),
            Edge(src="b", dst="a", tensor="u", phase="backward"),
        ),
        tensor_bytes={"t": 1.0, "u": 2.0},
        param_bytes={"w": 4.0},
        buffer_bytes={"mask": 3.0},
        frozen=frozenset({"w"}),
        dtype="bfloat16",
        measured_on="t4-16gb",
        slowdown=(1.0, 1.5),
        samples_per_microbatch=8,
    )
    assert graph_from_dict(json.loads(json.dumps(graph_to_dict(graph)))) == graph


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 4}, "schema_version is 4"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"ops": [{"kind": "k"}]}, "key 'ops.0.name' is missing"),
        ({"ops": [{"name": "a", "kind": "k", "speed": 1}]}, "unknown key 'ops.0.speed'"),
        ({"edges": [{"src": "a"}]}, "key 'edges.0.dst' is missing"),
        ({"ops": []}, "where: .*has no ops"),
    ],
)
def test_bad_documents_are_refused(change, message):
    good = graph_to_dict(random_graph(np.random.default_rng(0), 3))
    with pytest.raises(GraphError, match=message):
        graph_from_dict(good | change, "where")


def test_a_missing_key_is_named():
    good = graph_to_dict(random_graph(np.random.default_rng(0), 3))
    del good["tensor_bytes"]
    with pytest.raises(GraphError, match="'tensor_bytes' is missing"):
        graph_from_dict(good)


def test_fixed_parts_and_the_batch_axis_are_kept():
    graph = OpGraph(
        name="g",
        ops=(Op(name="a", kind="k", forward=Work(4.0, 6.0, 0.0, 2.0), weight_grad=Work(1.0), saved=("x",)),),
        edges=(),
        tensor_bytes={"x": 4.0},
        tensor_fixed_bytes={"x": 1.0},
        batch_axis="linear",
    )
    entry = graph_to_dict(graph)
    assert entry["ops"][0]["fixed"] == {"forward": [0.0, 2.0]}
    assert graph_from_dict(json.loads(json.dumps(entry))) == graph
    assert graph_hash(graph) != graph_hash(dataclasses.replace(graph, batch_axis="none"))
