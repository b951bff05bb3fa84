from __future__ import annotations

import pytest

from drlpp.errors import PlanError
from drlpp.export.layers import check_ends, find_layer_list, layered
from drlpp.graph import Edge, Op, OpGraph
from drlpp.graph.generate.synthetic import chain_graph
from exported_models import plan_by_labels, plan_by_modules


def chain_of(modules: list[str]) -> OpGraph:
    ops = tuple(Op(name=f"op{i}", kind="x", module=m, params=(f"p{i}",) if m else ()) for i, m in enumerate(modules))
    edges = tuple(Edge(src=f"op{i}", dst=f"op{i + 1}", tensor=f"t{i}") for i in range(len(ops) - 1))
    return OpGraph(
        name="g",
        ops=ops,
        edges=edges,
        tensor_bytes={f"t{i}": 1.0 for i in range(len(ops))},
        param_bytes={f"p{i}": 1.0 for i in range(len(ops))},
    )


def test_units_of_a_language_model(layered_plan):
    model = layered(layered_plan, "X")
    assert model.layers == "layers"
    assert model.units == ("embed", *(f"layers.{i}" for i in range(6)), "norm", "head")
    assert model.stages == (0, 0, 1, 1, 2, 2, 2, 2, 2)
    assert model.layers_per_stage(3) == [1, 2, 3]
    check_ends(model, 3, "X")


def test_lists_inside_a_wrapper_and_their_neighbours():
    graph = chain_of(["t.wte", "t", "t.h.0.mlp", "t.h.1.mlp", "t.ln", "head", ""])
    plan = plan_by_labels(graph, [0, 0, 0, 1, 1, 1, 1], [(0,), (1,)])
    model = layered(plan, "X")
    assert (model.layers, model.units) == ("t.h", ("t.wte", "t.h.0", "t.h.1", "t.ln", "head"))


def test_the_list_with_the_most_parameters_is_the_list_of_layers():
    assert find_layer_list(chain_of(["a.0", "a.1", "b.0", "b.1", "b.2"]), "X") == "b"


def test_the_model_itself_may_be_the_list():
    graph = chain_of([str(i) for i in range(2048)])
    plan = plan_by_labels(graph, [int(i >= 1000) for i in range(2048)], [(0,), (1,)])
    model = layered(plan, "X")
    assert (model.layers, model.list_name) == ("", "the model")
    assert model.layers_per_stage(2) == [1000, 1048]
    check_ends(model, 2, "X")


def test_a_list_inside_another_is_taken_if_it_holds_most_of_the_model():
    assert find_layer_list(chain_of(["0.layers.0", "0.layers.1", "0.layers.2", "1"]), "X") == "0.layers"
    assert (
        find_layer_list(chain_of(["l.0.ff.0", "l.0.ff.1", "l.0.ff.2", "l.1.ff.0", "l.1.ff.1", "l.1.ff.2"]), "X") == "l"
    )


def test_models_without_a_list_are_refused():
    with pytest.raises(PlanError, match="names no such list"):
        find_layer_list(chain_graph(3), "X")


def test_layers_must_be_whole(language_model):
    plan = plan_by_modules(language_model, ["layers.2.down"], [(0,), (1,)])
    with pytest.raises(PlanError, match=r"X keeps 'layers\.2' whole"):
        layered(plan, "X")


def test_layers_must_be_in_order():
    ops = tuple(Op(name=n, kind="x", module=m) for n, m in (("a", "l.0"), ("b", "l.1"), ("c", "l.2")))
    graph = OpGraph(name="g", ops=ops, edges=(), tensor_bytes={})
    plan = plan_by_labels(graph, [0, 1, 0], [(0,), (1,)])
    with pytest.raises(PlanError, match=r"'l\.2' is in stage 0 and 'l\.1' before it in stage 1"):
        layered(plan, "X")


def test_what_is_beside_the_layers_belongs_to_the_ends(language_model):
    early = plan_by_modules(language_model, ["layers.0"], [(0,), (1,)])
    check_ends(layered(early, "X"), 2, "X")
    late = plan_by_modules(language_model, ["layers.3", "head"], [(0,), (1,), (2,)])
    with pytest.raises(PlanError, match="keeps 'norm' in stage 2, but the plan has it in stage 1"):
        check_ends(layered(late, "X"), 3, "X")
