"""What one member computes."""

import pytest

from drlpp.cluster import Link
from drlpp.cost.sharding.members import PARTIAL, inner_s, member_op, move_s, operands
from drlpp.graph import PARTIAL_SUM, Edge, Op, OpGraph, Part, Split, Work

X, W, Y = 4.0 * 8 * 16, 4.0 * 16 * 32, 4.0 * 8 * 32
"""Bytes of ``y = x w`` for x of 8 x 16 and w of 16 x 32."""
COLUMNS = Split("columns", 32, (Part("w", 0),), (Part("y", 1),))
ROWS = Split("rows", 16, (Part("x", 1), Part("w", 1)), (Part("y", PARTIAL_SUM),))
SEQUENCE = Split("sequence", 8, (Part("x", 0),), (Part("y", 0),))
LINK = Link(bandwidth=100.0, latency_s=1.0)


@pytest.fixture
def graph() -> OpGraph:
    flop = 2.0 * 8 * 16 * 32
    product = Op(
        name="y",
        kind="aten.linear",
        forward=Work.of(flop, X + W + Y, 1, 8 * 32),
        input_grad=Work.of(flop, X + W + Y, 1, 8 * 16),
        weight_grad=Work.of(flop, X + Y + 4 * W, 2, 16 * 32),
        params=("w",),
        output_bytes=Y,
        splits=(COLUMNS, ROWS, SEQUENCE),
    )
    return OpGraph(
        name="g",
        ops=(Op(name="x", kind="k", output_bytes=X), product, Op(name="z", kind="k")),
        edges=(Edge(src="x", dst="y", tensor="x"), Edge(src="y", dst="z", tensor="y")),
        tensor_bytes={"x": X, "y": Y},
        param_bytes={"w": W},
    )


@pytest.mark.parametrize(
    ("split", "held", "learned", "outputs"),
    [
        (COLUMNS, X + W / 2 + Y / 2, X + Y / 2 + 4 * W / 2, (128.0, 128.0, 256.0)),
        (ROWS, X / 2 + W / 2 + Y, X / 2 + Y + 4 * W / 2, (256.0, 64.0, 256.0)),
        (SEQUENCE, X / 2 + W + Y / 2, X / 2 + Y / 2 + 4 * W, (128.0, 64.0, 512.0)),
    ],
)
def test_bytes_are_those_that_a_member_holds(graph, split, held, learned, outputs):
    op = member_op(graph.ops[1], split, operands(graph)[1], 2)
    assert op.forward.flop == graph.ops[1].forward.flop / 2
    assert op.forward.bytes == pytest.approx(held)
    assert op.input_grad.bytes == pytest.approx(held)
    assert op.weight_grad.bytes == pytest.approx(learned)
    assert (op.forward.outputs, op.input_grad.outputs, op.weight_grad.outputs) == pytest.approx(outputs)


def test_results_are_held_as_they_come_out(graph):
    sizes = operands(graph)[1]
    assert member_op(graph.ops[1], COLUMNS, sizes, 2).output_bytes == Y / 2
    assert member_op(graph.ops[1], ROWS, sizes, 2).output_bytes == Y


def test_a_lookup_reads_as_many_rows_as_it_gives():
    found = Op(name="e", kind="aten.embedding", forward=Work.of(0.0, 200.0), params=("w",), output_bytes=100.0)
    graph = OpGraph(name="g", ops=(found,), edges=(), tensor_bytes={}, param_bytes={"w": 10_000.0})
    vocabulary = Split("vocabulary", 8, (Part("w", 0),), (Part("e", PARTIAL_SUM),))
    features = Split("features", 8, (Part("w", 1),), (Part("e", 1),))
    sizes = operands(graph)[0]
    assert member_op(found, vocabulary, sizes, 2).forward.bytes == 200.0
    assert member_op(found, features, sizes, 2).forward.bytes == 100.0


def test_the_gradient_of_a_whole_parameter_is_whole():
    norm = Op(name="n", kind="k", weight_grad=Work.of(0.0, 32.0), params=("w",), output_bytes=100.0)
    graph = OpGraph(name="g", ops=(norm,), edges=(), tensor_bytes={}, param_bytes={"w": 8.0})
    split = Split("sequence", 8, (), (Part("n", 1),))
    assert member_op(norm, split, operands(graph)[0], 2).weight_grad.bytes == 32.0


def test_moves_take_what_rings_take():
    cut, other = (1, ()), (0, ())
    reduce = 2 * 3 / 4 * 400 / 100 + 2 * 3 * 1.0
    assert move_s(PARTIAL, None, 400.0, LINK, 4) == reduce
    assert move_s(PARTIAL, cut, 400.0, LINK, 4) == reduce / 2
    assert move_s(cut, None, 400.0, LINK, 4) == reduce / 2
    assert move_s(cut, other, 400.0, LINK, 4) == pytest.approx(3 / 4 * 100 / 100 + 1.0)
    assert move_s(None, cut, 400.0, LINK, 4) == move_s(cut, cut, 400.0, LINK, 4) == 0.0


def test_members_that_share_classes_sum_over_their_rows(graph):
    loss = Split("vocabulary", 32, (Part("y", 1),))
    assert inner_s(loss, operands(graph)[2], LINK, 2) == pytest.approx(3 * (Y / 32 / 100 + 2.0))
    assert inner_s(COLUMNS, operands(graph)[1], LINK, 2) == 0.0


def test_members_of_a_batch_norm_tell_each_other_their_statistics():
    norm = Op(name="n", kind="aten.batch_norm", buffers=("m", "v"), output_bytes=100.0)
    graph = OpGraph(name="g", ops=(norm,), edges=(), tensor_bytes={}, buffer_bytes={"m": 32.0, "v": 32.0})
    channels = Split("channels", 8, (Part("x", 1),), (Part("n", 1),))
    assert inner_s(channels, operands(graph)[0], LINK, 4) == 3 / 4 * 64 / 100 + 3 * 1.0
