from __future__ import annotations

import dataclasses
import math

import pytest

from drlpp.report.charts import curve_chart, history_chart
from drlpp.report.comparison import compare_results
from hand_plans import Bound


def test_history_goes_on_until_the_last_planner_is_done(problem, results):
    bound = 0.9 * min(r.history[-1][1] for r in results if r.history)
    chart = history_chart(compare_results(problem, results, Bound(bound)))
    assert [s["name"] for s in chart["series"]] == ["drl", "data-parallel"]
    for series in chart["series"]:
        assert series["points"][-1][0] == 30.0
        assert series["points"][-1][1] == series["points"][-2][1]
    assert chart["bound"] == bound


def test_bad_starts_and_low_bounds_do_not_flatten_the_chart(problem, results):
    best = results[0].history[-1][1]
    late = dataclasses.replace(results[1], history=((0.1, 50 * best), (0.2, 1.1 * best)))
    chart = history_chart(compare_results(problem, [late, results[0]], Bound(0.1 * best)))
    assert [s["name"] for s in chart["series"]] == [results[0].planner, results[1].planner]
    assert chart["series"][0]["label"].startswith(f"{results[0].planner} ")
    assert chart["y"]["cut"] == pytest.approx(2 * best)
    assert chart["bound"] is None
    assert "below the chart" in chart["remark"]
    calm = history_chart(compare_results(problem, [results[0]], Bound(0.9 * best)))
    assert (calm["bound"], calm["remark"]) == (pytest.approx(0.9 * best), "")


def test_no_history_no_chart(problem, results):
    assert history_chart(None) is None
    assert history_chart(compare_results(problem, results[2:], Bound(0.01))) is None


def test_curve_draws_rewards_and_thins_them_out():
    curve = [{"iteration": i, "seconds": 0.1 * i, "mean_reward": -1 / (i + 1), "loss": 3.0} for i in range(5000)]
    chart = curve_chart(curve)
    assert [s["name"] for s in chart["series"]] == ["mean of the policy's samples"]
    points = chart["series"][0]["points"]
    assert len(points) <= 601
    assert points[-1] == (4999.0, pytest.approx(-1 / 5000, rel=1e-5))
    assert "5000 iterations in 500 s" in chart["caption"]


def test_curve_draws_times_where_there_are_no_rewards():
    chart = curve_chart([{"best_value_s": math.inf}, {"best_value_s": 0.2, "own_s": 0.3}, {"best_value_s": 0.1}])
    assert [(s["name"], s["points"]) for s in chart["series"]] == [
        ("best so far", [(1.0, 0.2), (2.0, 0.1)]),
        ("own s", [(1.0, 0.3)]),
    ]
    assert chart["y"] == {"unit": "s"}


def test_no_curve_no_chart():
    assert curve_chart([]) is None
    assert curve_chart([{"iteration": 1.0, "entropy": 0.5}]) is None
