from __future__ import annotations

import dataclasses
import json
import math

import pytest

from drlpp.errors import InputError
from drlpp.plan import plan_to_dict
from drlpp.report.comparison import compare_results, comparison_from_dict, comparison_row, load_comparison
from hand_plans import Bound


def test_rows_keep_the_order_and_the_failures(problem, results):
    comparison = compare_results(problem, results, Bound(0.01))
    assert [row.planner for row in comparison.rows] == ["drl", "data-parallel", "milp"]
    failed = comparison.rows[2]
    assert (failed.status, failed.reason) == ("failed", "no solution <in> time")
    assert failed.iteration_time_s is None
    assert failed.speedup_over_data_parallel is None
    assert failed.gap is None


def test_gap_and_speedup_are_ratios_of_the_objective(problem, results):
    comparison = compare_results(problem, results, Bound(0.01))
    drl, parallel, _ = comparison.rows
    assert drl.gap == pytest.approx((drl.iteration_time_s - 0.01) / 0.01)
    assert drl.speedup_over_data_parallel == pytest.approx(parallel.iteration_time_s / drl.iteration_time_s)
    assert parallel.speedup_over_data_parallel == pytest.approx(1.0)

    steady = dataclasses.replace(problem, objective="steady-state")
    drl, parallel, _ = compare_results(steady, results, Bound(0.001)).rows
    assert drl.gap == pytest.approx((drl.bottleneck_s - 0.001) / 0.001)
    assert drl.speedup_over_data_parallel == pytest.approx(parallel.bottleneck_s / drl.bottleneck_s)


def test_no_speedup_without_a_plan_of_data_parallelism(problem, results):
    nothing = dataclasses.replace(results[1], status="infeasible", plan=None, reason="16 GB are not enough")
    comparison = compare_results(problem, [results[0], nothing], Bound(0.01))
    assert comparison.rows[0].speedup_over_data_parallel is None
    assert comparison.best is comparison.rows[0]


@pytest.mark.parametrize("bound", [0.0, math.inf])
def test_bounds_that_say_nothing_give_no_gap(problem, results, bound):
    comparison = compare_results(problem, results, Bound(bound))
    assert comparison.rows[0].gap is None
    assert comparison.useful_bound_s is None
    data = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert comparison_from_dict(data) == comparison


def test_the_curve_is_kept_without_what_json_cannot_say(problem, results):
    learned = dataclasses.replace(results[0], curve=({"mean_reward": -1.0, "best_value_s": math.inf},))
    data = compare_results(problem, [learned], Bound(0.01)).to_dict()
    assert data["rows"][0]["curve"] == [{"mean_reward": -1.0}]


def test_no_best_row_when_all_failed(problem, results):
    assert compare_results(problem, [results[2]], Bound(0.01)).best is None


def test_json_has_the_documented_keys_and_whole_plans(problem, results):
    data = compare_results(problem, results, Bound(0.01)).to_dict()
    assert set(data) >= {"problem", "lower_bound_s", "rows"}
    row = data["rows"][0]
    assert set(row) >= {
        "planner", "status", "iteration_time_s", "bottleneck_s", "planning_time_s", "speedup_over_data_parallel",
        "gap", "peak_memory_bytes", "plan", "reason", "history",
    }  # fmt: skip
    assert row["plan"] == plan_to_dict(results[0].plan)
    assert len(row["peak_memory_bytes"]) == problem.cluster.num_devices
    assert data["rows"][2]["plan"] is None


def test_json_round_trip(problem, results, tmp_path):
    comparison = compare_results(problem, results, Bound(0.01))
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(comparison.to_dict()))
    again = load_comparison(path)
    assert again.to_dict() == comparison.to_dict()
    assert again.best is again.rows[[r.planner for r in again.rows].index(comparison.best.planner)]


def test_a_planner_may_not_appear_twice(problem, results):
    with pytest.raises(InputError, match="repeat a name"):
        compare_results(problem, [results[0], results[0]], Bound(0.01))


def test_a_plan_must_have_a_prediction(problem, results):
    bare = dataclasses.replace(results[0], plan=dataclasses.replace(results[0].plan, prediction=None))
    with pytest.raises(InputError, match="no prediction"):
        comparison_row(bare, problem, 0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("rows"), "key 'rows' is missing"),
        (lambda d: d["rows"][0].pop("plan"), "key 'plan' is missing"),
        (lambda d: d["rows"][0].update(status="great"), "status is 'great': it must be one of ok"),
        (lambda d: d["rows"][0].update(colour="red"), "not the form"),
        (lambda d: d["problem"].pop("model"), "not the form"),
    ],
)
def test_files_of_another_form_are_refused(problem, results, change, message):
    data = compare_results(problem, results, Bound(0.01)).to_dict()
    change(data)
    with pytest.raises(InputError, match=message):
        comparison_from_dict(data)


def test_a_file_must_be_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_comparison(path)
