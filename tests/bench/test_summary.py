"""Summaries, by hand."""

import math

import pytest

from bench_rows import ROWS, row
from drlpp.bench.summary import geometric_mean, summarize


def test_planners_are_measured_against_the_best_the_bound_and_each_other():
    dp, pipedream, dp_all = summarize(ROWS).planners
    assert [p.planner for p in (dp, pipedream, dp_all)] == ["dp", "pipedream", "data-parallel"]
    assert dp.over_best == pytest.approx(math.sqrt(1.0 * 4.01 / 4.0))
    assert dp.over_bound == pytest.approx(math.sqrt(2.0 * 4.01 / 2.0))
    assert dp.over_data_parallel == pytest.approx(4.0)
    assert dp.over_pipedream == pytest.approx(math.sqrt(2.0 * 4.0 / 4.01))
    assert (dp.wins, dp.losses, dp.worst_case) == (2, 0, "b")
    assert (pipedream.wins, pipedream.losses, pipedream.worst, pipedream.worst_case) == (1, 1, 2.0, "a")
    assert (dp_all.solved, dp_all.cells, dp_all.worst, dp_all.worst_case) == (1, 2, math.inf, "b")
    assert dp_all.to_dict()["worst"] is None
    assert (dp.median_s, dp.slowest_s) == (2.0, 3.0)


def test_cases():
    a, b = summarize(ROWS).cases
    assert (a.best_s, a.best_planner, a.gap) == (2.0, "dp", 1.0)
    assert (b.best_planner, b.gap, b.value_s["data-parallel"], b.status["data-parallel"]) == (
        "pipedream",
        1.0,
        None,
        "infeasible",
    )


def test_seeds_are_averaged_and_the_best_known_is_of_any_seed():
    rows = [row("a", "dp", 2.0), row("a", "dp", 8.0, seed=1)]
    summary = summarize(rows)
    assert summary.cases[0].value_s["dp"] == pytest.approx(4.0)
    assert summary.planners[0].over_best == pytest.approx(2.0)
    assert summary.planners[0].over_data_parallel is None


def test_cells_without_any_plan_or_bound():
    summary = summarize([row("a", "dp", None, bound=None, reason="no memory")])
    assert summary.cases[0].gap is None
    assert summary.planners[0].over_best is None
    assert summary.failures == (("dp", "a", "infeasible", "no memory"),)


def test_planners_that_do_not_apply_are_left_out():
    summary = summarize([*ROWS, row("a", "expert", None, status="not-applicable")])
    assert "expert" not in [p.planner for p in summary.planners]
    assert len(summary.failures) == 1


def test_geometric_mean():
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([]) is None
    assert geometric_mean([1.0, None]) is None
