"""Amounts of a float32 graph whose products are computed in low precision."""

import pytest

from drlpp.errors import GraphError
from drlpp.graph import Edge, Op, OpGraph, Work
from drlpp.graph.mixed_precision import at_precision

MASK = "relu:saved0"


def graph(**changes) -> OpGraph:
    """norm -> linear -> relu, with a mask that the activation keeps for itself."""
    return OpGraph(
        name="g",
        ops=(
            Op(name="norm", kind="aten.layer_norm", forward=Work(1.0, 160.0), output_bytes=80.0, saved=("x",)),
            Op(
                name="linear",
                kind="aten.linear",
                forward=Work.of(9.0, 300.0),
                input_grad=Work.of(9.0, 300.0),
                weight_grad=Work.of(9.0, 300.0),
                params=("w",),
                saved=("norm",),
                output_bytes=40.0,
            ),
            Op(
                name="relu", kind="aten.relu", forward=Work(1.0, 80.0), saved=("relu", "relu:saved0"), output_bytes=40.0
            ),
        ),
        edges=(Edge(src="norm", dst="linear", tensor="norm"), Edge(src="linear", dst="relu", tensor="linear")),
        tensor_bytes={"x": 80.0, "norm": 80.0, "linear": 40.0, "relu": 40.0, MASK: 10.0},
        param_bytes={"w": 160.0},
        **changes,
    )


def test_mixed_precision_halves_what_products_give_and_keeps_copies_of_what_they_read():
    low = at_precision(graph(), "bfloat16")
    assert (low.dtype, low.compute_dtype) == ("float32", "bfloat16")
    sizes = low.tensor_bytes
    assert (sizes["norm"], sizes["linear"], sizes["relu"], sizes[MASK]) == (80.0, 20.0, 20.0, 10.0)
    norm, linear, relu = low.ops
    assert linear.saved == ("linear:low:norm", "linear:low:w")
    assert (sizes["linear:low:norm"], sizes["linear:low:w"]) == (40.0, 80.0)
    assert low.tensor_fixed_bytes == {"linear:low:w": 80.0}
    assert norm.forward.bytes == 160.0
    assert linear.forward.bytes == 150.0 + 1.5 * (80.0 + 160.0)
    assert linear.forward.fixed_bytes == 1.5 * 160.0
    assert linear.weight_grad.bytes == 150.0
    assert relu.forward.bytes == 40.0
    assert (linear.output_bytes, relu.output_bytes) == (20.0, 20.0)
    assert low.param_bytes == {"w": 160.0}


def test_what_capture_noted_goes_before_the_kinds():
    low = at_precision(graph(low_tensors=("linear",)), "float16")
    assert (low.tensor_bytes["linear"], low.tensor_bytes["relu"]) == (20.0, 40.0)


def test_a_model_of_low_precision_is_half_as_large_throughout():
    low = at_precision(graph(), "bfloat16", main_parameters=True)
    assert low.tensor_bytes == {"x": 40.0, "norm": 40.0, "linear": 20.0, "relu": 20.0, MASK: 10.0}
    assert low.ops[1].saved == ("norm",)
    assert low.ops[1].forward.bytes == 150.0


def test_tf32_changes_the_rate_alone():
    fast = at_precision(graph(), "tf32")
    assert fast.compute_dtype == "tf32"
    assert fast.tensor_bytes == graph().tensor_bytes


def test_a_graph_keeps_its_precision_once_it_has_one():
    low = at_precision(graph(), "bfloat16")
    assert at_precision(low, "bfloat16") is low
    with pytest.raises(GraphError, match="has products in bfloat16, so float16 is not possible"):
        at_precision(low, "float16")
    with pytest.raises(GraphError, match="has products in bfloat16, so float32 is not possible"):
        at_precision(graph(dtype="bfloat16"), "float32")
