"""PipeDream on a path of contracted branches."""

import pytest

from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.consecutive.pipedream_contracted import ContractedParams, PipeDreamContracted
from planner_cases import small_problem

EQUAL = [["mid"] * 3]


@pytest.mark.parametrize("seed", range(3))
def test_cuts_are_where_an_op_is_comparable_with_all_others(seed):
    problem = small_problem(seed, EQUAL, num_ops=15)
    result = PipeDreamContracted().solve(problem, Budget(5), 0)
    validate(result.plan)
    arcs = [(a, b) for a, b in problem.graph.arcs.tolist()]
    stage = result.plan.stage_of_op
    for s in range(1, result.plan.num_stages):
        ends = {a for a, b in arcs if stage[a] < s <= stage[b]}
        last = max(ends)
        reach = {last}
        for b in reversed(range(last)):
            reach |= {b} if any(b == x and y in reach for x, y in arcs) else set()
        assert all(op in reach for op in range(problem.graph.num_ops) if stage[op] < s)


def test_of_more_states_evenly_spaced_ones_are_kept():
    problem = small_problem(0, EQUAL, num_ops=15)
    few = PipeDreamContracted(ContractedParams(max_states=2)).solve(problem, Budget(5), 0)
    assert few.breakdown["cut_states"] == 2
    assert few.plan.num_stages == 1
