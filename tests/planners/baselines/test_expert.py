"""The split that the source of a graph carries."""

import dataclasses

import numpy as np
import pytest

from drlpp.errors import GraphError
from drlpp.graph import graph_hash
from drlpp.graph.readers.pipedream import read_pipedream
from drlpp.graph.serialize import graph_from_dict, graph_to_dict
from drlpp.planners.base import Budget
from drlpp.planners.baselines.expert import Expert, expert_places
from drlpp.problem import SearchSpace
from planner_cases import chain_problem, small_problem, with_split

COSTS = "forward_compute_time=1.0, backward_compute_time=2.0, activation_size=8.0, parameter_size=4.0"
PROFILE = f"""node1 -- Input -- {COSTS}
node2 -- Conv2d -- {COSTS} -- stage_id=0
node3 -- ReLU -- {COSTS} -- stage_id=2
node4 -- Linear -- {COSTS} -- stage_id=2
node5 -- Loss -- {COSTS}
\tnode1 -- node2
\tnode2 -- node3
\tnode3 -- node4
\tnode4 -- node5
"""


def test_the_stages_of_a_profile_are_read_and_completed():
    graph = read_pipedream(PROFILE, "g")
    assert graph.given_stages == {"node1": 0, "node2": 0, "node3": 2, "node4": 2, "node5": 2}
    assert graph_from_dict(graph_to_dict(graph)).given_stages == graph.given_stages
    bare = read_pipedream(PROFILE.replace(" -- stage_id=0", "").replace(" -- stage_id=2", ""), "g")
    assert not bare.given_stages
    assert graph_hash(bare) == graph_hash(graph)


@pytest.mark.parametrize("text", ["stage_id=one", "stage_id=-1", "stage=1", "stage_id"])
def test_stages_that_are_no_numbers_are_refused(text):
    with pytest.raises(GraphError, match=f"line 2: '{text}' is not the stage of a vertex"):
        read_pipedream(PROFILE.replace("stage_id=0", text), "g")


@pytest.mark.parametrize("given", [{"op0": 0}, {"op0": 0, "op1": -1}, {"op0": 0, "op1": 0, "op2": 0}])
def test_given_stages_name_every_op(given):
    graph = chain_problem(2, [["mid"]]).graph
    with pytest.raises(GraphError, match="given_stages must name the stage of every op"):
        dataclasses.replace(graph, given_stages=given)


def test_the_split_stays_as_it_is():
    problem = with_split(small_problem(0, [["fast", "mid"], ["slow", "mid"]], num_ops=9), num_stages=3)
    plan = Expert().solve(problem, Budget(1), 0).plan
    given = problem.graph.given_stages
    assert [[given[op] for op in stage.ops] for stage in plan.stages] == [[0] * 3, [1] * 3, [2] * 3]


def test_places():
    four = chain_problem(4, [["mid"] * 2, ["mid"] * 2])
    assert expert_places(four, 2) == [((0,), (1,)), ((0, 1), (2, 3)), ((0, 2), (1, 3))]
    assert expert_places(four, 3) == [((0,), (1,), (2,))]
    assert expert_places(four, 8) == [((0,), (0,), (1,), (1,), (2,), (2,), (3,), (3,))]
    assert expert_places(dataclasses.replace(four, space=SearchSpace(parallelism=frozenset({"pp"}))), 2) == [
        ((0,), (1,))
    ]


def test_a_graph_without_a_split_is_told_so():
    result = Expert().solve(small_problem(0, [["mid"] * 2]), Budget(1), 0)
    assert (result.status, result.plan) == ("not-applicable", None)
    assert "carries no split of its source" in result.reason


def test_a_split_that_is_not_legal_is_told_so():
    problem = chain_problem(2, [["mid"] * 2])
    names = [op.name for op in problem.graph.ops]
    graph = dataclasses.replace(problem.graph, given_stages=dict(zip(names, (1, 0), strict=True)))
    result = Expert().solve(dataclasses.replace(problem, graph=graph), Budget(1), 0)
    assert result.status == "not-applicable"
    assert f"op '{names[0]}' in stage 1 and its reader '{names[1]}' in the earlier stage 0" in result.reason


def test_gaps_in_the_stages_are_closed():
    problem = chain_problem(4, [["mid"] * 2])
    given = {op.name: 3 * (i // 2) for i, op in enumerate(problem.graph.ops)}
    graph = dataclasses.replace(problem.graph, given_stages=given)
    plan = Expert().solve(dataclasses.replace(problem, graph=graph), Budget(1), 0).plan
    assert np.array_equal([len(s.ops) for s in plan.stages], [2, 2])
