"""The operator graph: what it checks, and what it derives."""

import dataclasses

import numpy as np
import pytest

from drlpp.errors import GraphError
from drlpp.graph import REFERENCE, Edge, Op, OpGraph, OpTimes, Work, graph_hash
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from random_problems import random_problem


def diamond() -> OpGraph:
    ops = tuple(Op(name=n, kind="k", params=("p",) if n in "bc" else (), saved=("t",)) for n in "abcd")
    edges = (
        Edge(src="a", dst="b", tensor="t"),
        Edge(src="a", dst="c", tensor="t"),
        Edge(src="b", dst="d", tensor="u"),
        Edge(src="c", dst="d", tensor="v"),
    )
    sizes = {"t": 8.0, "u": 4.0, "v": 2.0}
    return OpGraph(name="diamond", ops=ops, edges=edges, tensor_bytes=sizes, param_bytes={"p": 16.0})


def test_derived_tables():
    g = diamond()
    assert g.arcs.tolist() == [[0, 1], [0, 2], [1, 3], [2, 3]]
    assert g.predecessors == [[], [0], [0], [1, 2]]
    assert g.successors == [[1, 2], [3], [3], []]
    assert g.op_param_bytes.tolist() == [0, 16, 0, 0]  # shared: counted at its first reader
    assert g.op_saved_bytes.tolist() == [8, 0, 0, 0]
    assert not g.has_transfer_times


def test_frozen_parameters_and_buffers_are_told_apart():
    g = diamond()
    ops = tuple(dataclasses.replace(op, buffers=("mask",) if op.name in "ad" else ()) for op in g.ops)
    g = dataclasses.replace(g, ops=ops, buffer_bytes={"mask": 3.0})
    frozen = dataclasses.replace(g, frozen=frozenset({"p"}))
    assert g.op_trained_bytes.tolist() == [0, 16, 0, 0]
    assert g.op_frozen_bytes.tolist() == [3, 0, 0, 0]
    assert g.param_is_trained.tolist() == [True, False]
    assert frozen.op_param_bytes.tolist() == [0, 16, 0, 0]
    assert frozen.op_trained_bytes.tolist() == [0, 0, 0, 0]
    assert frozen.op_frozen_bytes.tolist() == [3, 16, 0, 0]
    assert len({graph_hash(diamond()), graph_hash(g), graph_hash(frozen)}) == 3


def test_members_point_to_their_op():
    op = Op(name="a", kind="k", members=("x", "y"))
    g = OpGraph(name="g", ops=(op,), edges=(), tensor_bytes={})
    assert g.member_index == {"x": 0, "y": 0}


def test_hash_depends_on_content_only():
    g = diamond()
    assert graph_hash(dataclasses.replace(g, name="other", source="elsewhere")) == graph_hash(g)
    assert graph_hash(dataclasses.replace(g, tensor_bytes={"t": 9.0, "u": 4.0, "v": 2.0})) != graph_hash(g)


def test_backward_edges_order_the_other_way():
    e = Edge(src="b", dst="a", tensor="t", phase="backward")
    assert (e.before, e.after) == ("a", "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ops": ()}, "has no ops"),
        ({"ops": (*diamond().ops, Op(name="a", kind="k"))}, "'a' appears twice"),
        ({"param_bytes": {}}, "parameter 'p' of unknown size"),
        ({"frozen": frozenset({"q"})}, "'q' is frozen: it must be a parameter"),
        ({"ops": (Op(name="a", kind="k", buffers=("m",)),), "edges": ()}, "reads buffer 'm': a buffer has a size"),
        ({"tensor_bytes": {"u": 1.0, "v": 1.0}}, "saves tensor 't' of unknown size"),
        ({"tensor_bytes": {"t": -1.0, "u": 4.0, "v": 2.0}}, "must not be negative"),
        ({"edges": (Edge(src="a", dst="z", tensor="t"),)}, "unknown op 'z'"),
        ({"edges": (Edge(src="a", dst="b", tensor="w"),)}, "'w' of unknown size"),
        ({"edges": (Edge(src="a", dst="b", tensor="t", transfer_s=-1.0),)}, "must be >= 0"),
        ({"edges": (Edge(src="b", dst="a", tensor="t"),)}, "against the order"),
        ({"edges": (Edge(src="a", dst="a", tensor="t"),)}, "against the order"),
        ({"samples_per_microbatch": 0}, "must be >= 1"),
    ],
)
def test_bad_graphs_are_refused(change, message):
    with pytest.raises(GraphError, match=message):
        dataclasses.replace(diamond(), **change)


@pytest.mark.parametrize("bad", [{"forward": Work(flop=-1)}, {"times": {REFERENCE: OpTimes(float("nan"), 0)}}])
def test_bad_costs_are_refused(bad):
    with pytest.raises(GraphError, match="finite and not negative"):
        Op(name="a", kind="k", **bad)


def test_synthetic_graphs_are_valid_and_repeatable():
    a = random_graph(np.random.default_rng(3), 40)
    assert a == random_graph(np.random.default_rng(3), 40)
    assert len(a.arcs) >= 39
    assert chain_graph(3, param_bytes=4.0).predecessors == [[], [0], [1]]


def test_amounts_of_another_micro_batch_are_fixed_plus_per_sample():
    graph = OpGraph(
        name="two",
        ops=(
            Op(
                name="a",
                kind="linear",
                forward=Work(8.0, 6.0, 0.0, 4.0),
                output_bytes=2.0,
                times={"fast": OpTimes(1.0, 2.0, 3.0)},
                saved=("x", "mask"),
            ),
        ),
        edges=(),
        tensor_bytes={"x": 4.0, "mask": 5.0},
        tensor_fixed_bytes={"mask": 5.0},
        samples_per_microbatch=2,
    )
    larger = graph.with_samples(6)
    assert larger.samples_per_microbatch == 6
    assert larger.ops[0].forward == Work(24.0, 4.0 + 3 * 2.0, 0.0, 4.0)
    assert larger.ops[0].times["fast"] == OpTimes(3.0, 6.0, 9.0)
    assert larger.tensor_bytes == {"x": 12.0, "mask": 5.0}
    assert larger.with_samples(2) == graph
    assert graph.with_samples(2) is graph


def test_fixed_bytes_are_part_of_a_tensor():
    with pytest.raises(GraphError, match="9.0 bytes of tensor 'x' are fixed"):
        OpGraph(
            name="g",
            ops=(Op(name="a", kind="k", saved=("x",)),),
            edges=(),
            tensor_bytes={"x": 4.0},
            tensor_fixed_bytes={"x": 9.0},
        )


@pytest.mark.parametrize("seed", range(20))
def test_values_are_what_ops_send(seed):
    problem, _ = random_problem(seed)
    graph, values = problem.graph, problem.graph.values
    names = list(graph.tensor_bytes)
    wanted: dict[tuple[str, str, str], list] = {}
    for e in graph.edges:
        wanted.setdefault((e.src, e.tensor, e.phase), []).append(e)
    found = zip(values.src, values.tensor, values.backward, strict=True)
    assert [(graph.ops[s].name, names[t], "backward" if b else "forward") for s, t, b in found] == list(wanted)
    for v, edges in enumerate(wanted.values()):
        consumers = values.consumer[values.consumer_off[v] : values.consumer_off[v + 1]]
        assert consumers.tolist() == sorted({graph.index[e.dst] for e in edges})
        assert values.gradient[v] == any(e.requires_grad for e in edges)
        assert values.transfer_s[v] == (-1.0 if edges[-1].transfer_s is None else edges[-1].transfer_s)
    assert [list(wanted.values())[v][0].tensor for v in values.of_edge] == [e.tensor for e in graph.edges]
