"""The stage graph: messages, memory and tied parameters, by hand on a diamond."""

import itertools

import numpy as np
import pytest

from drlpp.errors import PlanError
from drlpp.graph import Edge, Op, OpGraph
from drlpp.graph.blocks import Recompute
from drlpp.graph.stages import stage_graph


def graph() -> OpGraph:
    """a feeds b and c with one tensor, both feed d; b and d share a parameter."""
    ops = (
        Op(name="a", kind="k", saved=("x",)),
        Op(name="b", kind="k", params=("p",), saved=("x", "y")),
        Op(name="c", kind="k", saved=("z",)),
        Op(name="d", kind="k", params=("p", "q")),
    )
    edges = (
        Edge(src="a", dst="b", tensor="x"),
        Edge(src="a", dst="c", tensor="x"),
        Edge(src="b", dst="d", tensor="y"),
        Edge(src="c", dst="d", tensor="z", requires_grad=False),
    )
    return OpGraph(
        name="g", ops=ops, edges=edges, tensor_bytes={"x": 1.0, "y": 10.0, "z": 100.0}, param_bytes={"p": 5.0, "q": 7.0}
    )


def test_one_stage_has_no_messages():
    s = stage_graph(graph(), np.zeros(4, dtype=np.int64), 1)
    assert s.messages == ()
    assert s.trained_bytes.tolist() == [12]
    assert s.activation_bytes.tolist() == [111]  # x, y, z once each
    assert s.tied == ()


def test_branches_on_their_own_stages():
    s = stage_graph(graph(), np.array([0, 1, 2, 3]), 4)
    assert [(m.src, m.dsts, m.bytes, m.requires_grad) for m in s.messages] == [
        (0, (1, 2), 1.0, True),
        (1, (3,), 10.0, True),
        (2, (3,), 100.0, False),
    ]
    assert s.trained_bytes.tolist() == [0, 5, 0, 12]
    assert s.activation_bytes.tolist() == [1, 11, 101, 110]
    assert s.boundary_bytes.tolist() == [0, 1, 1, 110]
    assert s.tied == (((1, 3), 5.0, 0.0),)
    assert s.tied_trained == ((1, 3),)


def test_a_tensor_needed_inside_and_outside_is_held_once():
    s = stage_graph(graph(), np.array([0, 0, 1, 1]), 2)
    assert [(m.src, m.dsts, m.tensors) for m in s.messages] == [(0, (1,), ("x", "y"))]
    assert s.activation_bytes.tolist() == [11, 111]


def test_what_a_stage_got_views_of_is_held_as_these_views():
    ops = (Op(name="a", kind="k", members=("a", "a1")), Op(name="b", kind="k"), Op(name="c", kind="k", saved=("a1",)))
    edges = (Edge(src="a", dst="b", tensor="half"), Edge(src="b", dst="c", tensor="quarter"))
    graph = OpGraph(name="g", ops=ops, edges=edges, tensor_bytes={"a1": 4.0, "half": 2.0, "quarter": 1.0})
    assert graph.tensor_maker.tolist() == [0, -1, -1]
    assert stage_graph(graph, np.array([0, 1, 2]), 3).activation_bytes.tolist() == [2.0, 3.0, 1.0]
    assert stage_graph(graph, np.array([0, 0, 0]), 1).activation_bytes.tolist() == [4.0]


@pytest.mark.parametrize(
    ("labels", "stages", "message"),
    [
        ([0, 1, 0, 0], 2, "'b' -> 'd' goes from stage 1 back to stage 0"),
        ([0, 0, 0], 1, "3 entries"),
        ([0, 0, 2, 2], 3, "stage 1 has no ops"),
        ([0, 0, 0, 3], 2, "must be in 0..1"),
    ],
)
def test_illegal_partitions_are_refused(labels, stages, message):
    with pytest.raises(PlanError, match=message):
        stage_graph(graph(), np.array(labels), stages)


def layers() -> OpGraph:
    """An input, two blocks of two ops that each save their result, and a loss that saves what the last one made."""
    names = ["in", "a0", "b0", "a1", "b1", "loss"]
    modules = ["", "layers.0", "layers.0", "layers.1", "layers.1", ""]
    saved = [(), ("a0", "in"), ("b0",), ("a1", "b0"), ("b1",), ("b1",)]
    ops = tuple(Op(name=n, kind=n[0], module=m, saved=s) for n, m, s in zip(names, modules, saved, strict=True))
    edges = tuple(Edge(src=a, dst=b, tensor=a) for a, b in itertools.pairwise(names))
    sizes = {"in": 1.0, "a0": 10.0, "b0": 100.0, "a1": 1000.0, "b1": 10000.0}
    return OpGraph(name="layers", ops=ops, edges=edges, tensor_bytes=sizes)


def test_blocks_that_compute_again_keep_their_inputs_and_what_others_save():
    s = stage_graph(layers(), np.zeros(6, dtype=np.int64), 1)
    assert s.kept(0, Recompute.NONE) == (11111, 0, 0)
    assert s.kept(0, Recompute.STAGE) == (0, 11111, 11111)
    assert s.kept(0, Recompute.BLOCK) == (10101, 1000, 1010)  # in, b0 and b1 stay; the second block brings back a1


def test_a_border_inside_a_block_makes_two_blocks_of_it():
    s = stage_graph(layers(), np.array([0, 0, 1, 1, 1, 1]), 2)
    assert s.kept(0, Recompute.BLOCK) == (11, 0, 0)  # it reads `in` and sends a0
    assert s.kept(1, Recompute.BLOCK) == (10110, 1000, 1000)


def test_without_repeated_blocks_nothing_is_computed_again():
    s = stage_graph(graph(), np.array([0, 0, 1, 1]), 2)
    for stage in range(2):
        assert s.kept(stage, Recompute.BLOCK) == s.kept(stage, Recompute.NONE)
