"""Where engines can cut a decoder, and the graph of the blocks."""

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import load_cluster
from drlpp.errors import PlanError
from drlpp.graph import Edge
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Assignment
from drlpp.planners.engines.cut_points import block_of_op, problem_of_blocks
from drlpp.planners.engines.engine import ENGINES
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from layered_graphs import decoder_graph


def blocks(graph, engine):
    """Names of the first op of each block."""
    label = block_of_op(graph, ENGINES[engine])
    assert (np.diff(label) >= 0).all()
    return [graph.ops[i].name for i in np.flatnonzero(np.diff(label, prepend=-1))]


LAYERS = ["attn0", "attn1", "attn2"]


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("megatron", ["mask", *LAYERS, "norm"]),
        ("deepspeed", ["mask", *LAYERS, "norm", "head"]),
        ("vllm", ["mask", "attn1", "attn2"]),
        ("sglang", ["mask", "attn1", "attn2"]),
        ("torchtitan", ["mask", *LAYERS, "norm", "head"]),
    ],
)
def test_cuts_of_a_decoder(engine, expected):
    assert blocks(decoder_graph(3), engine) == expected


def test_torchtitan_cuts_lists_at_the_top_level():
    g = decoder_graph(3)
    unwrapped = tuple(dataclasses.replace(op, module=op.module.removeprefix("model").lstrip(".")) for op in g.ops)
    assert blocks(dataclasses.replace(g, ops=unwrapped), "torchtitan") == ["mask", *LAYERS, "norm", "head"]


def test_torch_cuts_where_modules_begin_but_not_across_the_residual():
    found = blocks(decoder_graph(2), "torch")
    assert "mlp0" not in found or "attn1" in found
    assert found[0] == "mask"
    assert found[-1] == "head"


def test_accelerate_does_not_cut_a_residual_connection():
    assert blocks(decoder_graph(3), "accelerate") == ["mask", *LAYERS, "norm", "head"]


def test_the_model_itself_may_be_the_list_of_layers():
    g = decoder_graph(3)
    ops = tuple(
        dataclasses.replace(op, module=str(int(op.module.split(".")[2]) + 1) if "layers" in op.module else "0")
        for op in g.ops[:-3]
    )
    ops += tuple(dataclasses.replace(op, module=str(4 + i)) for i, op in enumerate(g.ops[-3:]))
    found = blocks(dataclasses.replace(g, ops=ops), "deepspeed")
    assert found == ["mask", *LAYERS, "norm", "head", "loss"]


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("options", [{}, {"tied": True}, {"skip": True}])
def test_no_gradient_crosses_two_cuts(engine, options):
    g = decoder_graph(5, **options)
    label = block_of_op(g, ENGINES[engine])
    for e in g.edges:
        if e.requires_grad:
            assert label[g.index[e.dst]] - label[g.index[e.src]] <= 1


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_what_comes_from_parameters_crosses_one_cut_in_serving_too(engine):
    """Without gradients, too, an engine sends hidden states to the next stage only; each stage makes the mask."""
    graph = decoder_graph(4, skip=True)
    serving = dataclasses.replace(
        graph, edges=tuple(dataclasses.replace(edge, requires_grad=False) for edge in graph.edges)
    )
    assert blocks(serving, engine) == blocks(graph, engine) != blocks(decoder_graph(4), engine)


def test_parameters_of_the_model_itself_do_not_hold_it_together():
    g = decoder_graph(3)
    ops = tuple(dataclasses.replace(op, module="" if op.name == "embed" else op.module) for op in g.ops)
    ops = tuple(dataclasses.replace(op, params=("position",)) if op.name == "embed" else op for op in ops)
    g = dataclasses.replace(g, ops=ops, param_bytes=dict(g.param_bytes) | {"position": 4.0})
    assert len(blocks(g, "torch")) > 3


def test_tied_weights_stay_together_where_they_must():
    g = decoder_graph(3, tied=True)
    label = block_of_op(g, ENGINES["torch"])
    assert label[g.index["embed"]] == label[g.index["head"]]
    label = block_of_op(g, ENGINES["megatron"])
    assert label[g.index["embed"]] < label[g.index["head"]]


@pytest.mark.parametrize("engine", ["torch", "megatron", "torchtitan"])
def test_graphs_without_modules_are_refused(engine):
    with pytest.raises(PlanError, match="names n"):
        block_of_op(chain_graph(4), ENGINES[engine])


def test_graphs_with_backward_operators_are_refused():
    g = chain_graph(3)
    back = Edge(src="op2", dst="op0", tensor="t2", phase="backward")
    with pytest.raises(PlanError, match="lists its own backward operators"):
        block_of_op(dataclasses.replace(g, edges=(*g.edges, back)), ENGINES["torch"])


def test_block_graphs_cost_what_the_ops_cost():
    g = decoder_graph(4)
    problem = PlanningProblem.build(g, load_cluster("mixed-a100-v100-t4"))
    label = block_of_op(g, ENGINES["megatron"])
    reduced = problem_of_blocks(problem, label)
    stage_of_block = np.array([0, 0, 1, 2, 2, 2])
    devices = ((0, 1), (2, 3), (4, 5))
    a = Evaluator(reduced).evaluate(Assignment(stage_of_block, devices))
    b = Evaluator(problem).evaluate(Assignment(stage_of_block[label], devices))
    assert a.iteration_time_s == pytest.approx(b.iteration_time_s, rel=1e-9)
    assert a.bottleneck_s == pytest.approx(b.bottleneck_s, rel=1e-9)
    assert a.peak_memory_bytes == pytest.approx(b.peak_memory_bytes, rel=1e-9)
