from __future__ import annotations

import math

import pytest
from hand_plans import Bound

from drlpp.report.charts import curve_chart, history_chart
from drlpp.report.comparison import compare_results


def test_history_goes_on_until_the_last_planner_is_done(problem, results):
    chart = history_chart(compare_results(problem, results, Bound(0.01)))
    assert [s["name"] for s in chart["series"]] == ["drl", "data-parallel"]
    for series in chart["series"]:
        assert series["points"][-1][0] == 30.0
        assert series["points"][-1][1] == series["points"][-2][1]
    assert chart["bound"] == 0.01


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
