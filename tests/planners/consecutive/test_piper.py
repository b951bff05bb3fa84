"""Recomputation where memory is short, and exhaustive search on a chain."""

import pytest

from drlpp.planners.base import Budget
from drlpp.planners.consecutive.piper import Piper
from drlpp.sim import Evaluator
from planner_cases import all_chain_splits, small_problem


def test_piper_recomputes_where_memory_is_short():
    roomy = small_problem(4, [["mid"] * 2], num_ops=10, objective="iteration-time", num_microbatches=8)
    peak = max(Piper().solve(roomy, Budget(10), 0).plan.prediction.peak_memory_bytes)
    found = set()
    for share in (0.9, 0.8, 0.7, 0.6, 0.5):
        tight = small_problem(
            4, [["mid"] * 2], num_ops=10, objective="iteration-time", num_microbatches=8, memory=f"{int(peak * share)}B"
        )
        result = Piper().solve(tight, Budget(10), 0)
        if result.plan is not None:
            assert max(result.plan.prediction.peak_memory_bytes) <= peak * share
            found |= {stage.settings.recompute for stage in result.plan.stages}
    assert True in found


def test_piper_equals_exhaustive_search_on_a_chain():
    problem = small_problem(2, [["mid"] * 3], num_ops=7, chain=True)
    evaluator = Evaluator(problem)
    best = min(evaluator.bottleneck_s(a) for a in all_chain_splits(problem, replicate=True))
    assert Piper().solve(problem, Budget(10), 0).plan.prediction.bottleneck_s == pytest.approx(best, rel=1e-9)
