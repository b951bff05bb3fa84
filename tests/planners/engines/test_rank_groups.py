"""Ways to form the ranks of an engine."""

from __future__ import annotations

import pytest

from drlpp.planners.engines.engine import ENGINES
from drlpp.planners.engines.rank_groups import rank_groups, slowest
from drlpp.problem import PlanningProblem
from layered_graphs import decoder_graph
from planner_cases import small_cluster


def problem_on(*hosts: list[str]) -> PlanningProblem:
    return PlanningProblem.build(decoder_graph(4), small_cluster(hosts), num_microbatches=8)


@pytest.mark.parametrize("engine", ["megatron", "accelerate"])
def test_groups_are_equally_large(engine):
    problem = problem_on(["mid"] * 4)
    for ranks in rank_groups(problem, ENGINES[engine]):
        assert len({len(group) for group in ranks}) == 1
        flat = [d for group in ranks for d in group]
        assert len(set(flat)) == len(flat)


def test_like_devices_are_copies_of_each_other():
    problem = problem_on(["fast", "slow"], ["slow", "fast"])
    pairs = {ranks for ranks in rank_groups(problem, ENGINES["megatron"]) if len(ranks) == 2}
    assert {frozenset(ranks) for ranks in pairs} == {frozenset({(0, 3), (1, 2)})}
    assert slowest(problem, (0, 1, 3)) == 1
