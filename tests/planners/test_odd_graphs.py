"""Graphs at the edge: nothing to do, no edges, several components, inputs that PipeDream drops."""

import pytest

from drlpp.graph import REFERENCE, Edge, Op, OpGraph, OpTimes
from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.bounds.lower_bound import lower_bound
from drlpp.planners.registry import PLANNERS, get_planner
from drlpp.problem import PlanningProblem
from planner_cases import small_cluster, with_split


def op(name, seconds=1e-3, kind="synthetic"):
    return Op(name=name, kind=kind, times={REFERENCE: OpTimes(seconds, seconds)}, output_bytes=8.0)


def graph(ops, arcs):
    edges = tuple(Edge(src=a, dst=b, tensor=f"t{a}") for a, b in arcs)
    return OpGraph(name="odd", ops=tuple(ops), edges=edges, tensor_bytes={f"t{o.name}": 8.0 for o in ops})


GRAPHS = {
    "no time": graph([op("a", 0.0), op("b", 0.0), op("c", 0.0)], [("a", "b"), ("b", "c")]),
    "no edges": graph([op(x) for x in "abcdef"], []),
    "two chains": graph([op(x) for x in "abcdef"], [("a", "c"), ("c", "e"), ("b", "d"), ("d", "f")]),
    "inputs and getitems": graph(
        [op("a", 0.0, "Input0"), op("b"), op("c"), op("d", 0.0, "__getitem__"), op("e", 0.0, "Input1")],
        [("a", "b"), ("b", "c"), ("c", "d")],
    ),
    "only inputs": graph([op("a", 0.0, "Input0"), op("b", 0.0, "Input1")], []),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PLANNERS))
@pytest.mark.parametrize("kind", list(GRAPHS))
@pytest.mark.parametrize("objective", ["iteration-time", "steady-state"])
def test_every_planner_plans_odd_graphs(name, kind, objective):
    problem = with_split(
        PlanningProblem.build(
            GRAPHS[kind], small_cluster([["fast", "mid"], ["slow"]]), num_microbatches=4, objective=objective
        )
    )
    result = get_planner(name).solve(problem, Budget(0.1), 0)
    assert result.status == "ok", result.reason
    validate(result.plan)
    prediction = result.plan.prediction
    value = prediction.iteration_time_s if objective == "iteration-time" else prediction.bottleneck_s
    assert value >= lower_bound(problem).value_s
