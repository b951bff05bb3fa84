"""Ways to divide an op."""

import dataclasses
import json

import numpy as np
import pytest

from drlpp.errors import GraphError
from drlpp.graph import (
    PARTIAL_SUM,
    Edge,
    MemberTimes,
    Op,
    OpGraph,
    Part,
    Split,
    graph_from_dict,
    graph_hash,
    graph_to_dict,
)
from drlpp.graph.contract import contract
from drlpp.graph.mixed_precision import at_precision

COLUMNS = Split("columns", 8, (Part("w", 0),), (Part("y", 2, (4, 4)),), ("y",))
ROWS = Split("rows", 6, (Part("y", 2), Part("w", 1)), (Part("y", PARTIAL_SUM),))


@pytest.fixture
def graph() -> OpGraph:
    return OpGraph(
        name="g",
        ops=(
            Op(name="x", kind="aten.relu"),
            Op(name="y", kind="aten.linear", params=("w",), saved=("x", "y"), splits=(COLUMNS, ROWS)),
        ),
        edges=(Edge(src="x", dst="y", tensor="x"),),
        tensor_bytes={"x": 4.0, "y": 8.0},
        param_bytes={"w": 16.0},
    )


def test_a_degree_fits_if_it_divides_the_axis_and_every_section():
    assert COLUMNS.fits(2)
    assert COLUMNS.fits(4)
    assert not COLUMNS.fits(8)
    assert not COLUMNS.fits(3)
    assert ROWS.fits(3)
    assert not ROWS.fits(4)


def test_parts_are_found_by_name():
    assert COLUMNS.read("w") == Part("w", 0)
    assert COLUMNS.read("x") is None
    assert ROWS.given("y") == Part("y", PARTIAL_SUM)
    assert ROWS.given("z") is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Split("rows", 1), "has size 1"),
        (lambda: Split("rows", 2, (Part("x", PARTIAL_SUM),)), "names dimension -1 of 'x'"),
        (lambda: Split("rows", 2, (), (Part("x", -2),)), "names dimension -2 of 'x'"),
        (lambda: Split("rows", 2, (Part("x", 1, (2, 0)),)), r"has sections \(2, 0\) of 'x'"),
        (lambda: Split("rows", 2, times=(MemberTimes(1, 1.0, 1.0, 1.0),)), "degree of at least 2"),
        (lambda: Op(name="a", kind="k", splits=(COLUMNS,)), "keeps a part of 'y', which the op does not save"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(GraphError, match=message):
        make()


def test_splits_survive_a_file_and_decide_the_hash(graph):
    assert graph_from_dict(json.loads(json.dumps(graph_to_dict(graph)))) == graph
    undivided = dataclasses.replace(graph, ops=(graph.ops[0], dataclasses.replace(graph.ops[1], splits=())))
    assert graph_hash(undivided) != graph_hash(graph)


def test_a_file_of_the_first_version_is_read(graph):
    old = graph_to_dict(graph) | {"schema_version": 1}
    for op in old["ops"]:
        op.pop("splits", None)
    assert not any(op.splits for op in graph_from_dict(old).ops)


def test_a_split_of_a_wrong_form_is_named(graph):
    data = graph_to_dict(graph)
    data["ops"][1]["splits"][0]["axes"] = "rows"
    with pytest.raises(GraphError, match=r"unknown key 'ops\.1\.splits\.0\.axes'"):
        graph_from_dict(data)


def test_another_number_of_samples_has_the_same_splits(graph):
    assert graph.with_samples(3).ops[1].splits == (COLUMNS, ROWS)


def test_an_op_alone_in_its_group_keeps_its_splits(graph):
    assert contract(graph, np.array([0, 1]), {}, "same").ops[1].splits == (COLUMNS, ROWS)
    assert contract(graph, np.array([0, 0]), {}, "one").ops[0].splits == ()


def test_a_copy_in_low_precision_is_kept_as_the_original_is(graph):
    split = dataclasses.replace(COLUMNS, keeps=("x",))
    op = dataclasses.replace(graph.ops[1], splits=(split,))
    low = at_precision(dataclasses.replace(graph, ops=(graph.ops[0], op)), "bfloat16")
    assert low.ops[1].splits[0].keeps == ("y:low:x", "y:low:w")
