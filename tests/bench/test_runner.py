"""Running suites."""

import json

import pytest

from drlpp.bench import runner
from drlpp.bench.case import Case, Suite
from drlpp.bench.results import read_rows
from drlpp.bench.runner import run_suite
from drlpp.bench.summary import summarize
from drlpp.errors import InputError
from drlpp.planners.base import no_progress
from drlpp.planners.baselines.data_parallel import DataParallel
from drlpp.planners.baselines.greedy import Greedy

SUITE = Suite(
    "two",
    "two chains",
    (
        Case("a", "generated:dag?ops=12", "local-2"),
        Case("b", "generated:dag?ops=12&seed=1", "local-2", 4, "steady-state"),
    ),
)


class Broken:
    name = "broken"
    summary = "fails"

    def solve(self, problem, budget, seed, progress=no_progress):
        raise RuntimeError("out of\nluck")


def run(path, **more):
    asked = {"planners": ["data-parallel", "greedy"], "budget_s": 0.2, "seeds": (0, 1)} | more
    return run_suite(SUITE, path, **asked)


def test_every_cell_is_a_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    steps = []
    rows = run(path, on_step=steps.append)
    cells = [(r["case"]["name"], r["planner"], r["seed"]) for r in rows]
    assert cells == [(c, p, s) for c in "ab" for p in ("data-parallel", "greedy") for s in (0, 1)]
    assert read_rows(path) == json.loads(json.dumps(rows))
    for row in rows:
        assert row["status"] == "ok"
        steady = row["case"]["objective"] == "steady-state"
        assert row["value_s"] == row["bottleneck_s" if steady else "iteration_time_s"] >= row["lower_bound_s"] > 0
        assert row["num_ops"] == 12
        assert row["used_devices"] <= row["num_devices"] == 2
    assert [s.done for s in steps if s.row] == list(range(1, 9))
    assert steps[0].eta_s == pytest.approx(8 * 0.2)
    assert steps[-1].eta_s == 0


def test_an_interrupted_run_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"

    def interrupt(step):
        if step.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(path, on_step=interrupt)
    assert len(read_rows(path)) == 3
    messages, steps = [], []
    rows = run(path, say=messages.append, on_step=steps.append)
    assert len(rows) == len(read_rows(path)) == 8
    assert sum(s.row is not None for s in steps) == 5
    assert any("3 of 8 cells are done already" in m for m in messages)
    steps.clear()
    assert run(path, on_step=steps.append) == rows
    assert not steps


def test_other_settings_do_not_count_and_are_told(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    run(path, seeds=(0,))
    messages = []
    run(path, seeds=(0,), budget_s=0.1, say=messages.append)
    assert any("4 rows" in m and "budget_s was 0.2 and is 0.1" in m for m in messages)
    monkeypatch.setattr("drlpp.bench.settings.code_digest", lambda: "changed")
    run(path, seeds=(0,), budget_s=0.1, say=messages.append)
    assert "is changed" in messages[-2]
    assert len(read_rows(path)) == 12


def test_budgets_of_processor_time_are_other_settings(tmp_path):
    path = tmp_path / "rows.jsonl"
    run(path, seeds=(0,))
    rows = run(path, seeds=(0,), cpu_time=True)
    assert {row["settings"]["clock"] for row in rows} == {"cpu"}
    assert len(read_rows(path)) == 8


def test_failures_are_rows_with_their_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    suite = Suite("s", "", (SUITE.cases[0], Case("no model", "timm:no_such_model", "local-2")))
    makers = {"data-parallel": DataParallel, "broken": Broken}
    rows = run_suite(suite, path, planners=makers, budget_s=0.1)
    assert [(r["status"], r["reason"]) for r in rows[:2]] == [("ok", ""), ("failed", "RuntimeError: out of luck")]
    assert rows[0]["gap"] == pytest.approx(rows[0]["value_s"] / rows[0]["lower_bound_s"] - 1)
    assert all(r["status"] == "failed" and "no_such_model" in r["reason"] for r in rows[2:])
    failures = summarize(rows).failures
    assert ("broken", "a", "failed", "RuntimeError: out of luck") in failures
    assert len(failures) == 3


def test_variants_of_a_planner_have_names_of_their_own(tmp_path):
    rows = run_suite(SUITE, tmp_path / "r.jsonl", planners={"one": Greedy, "two": Greedy}, budget_s=0.1)
    assert [r["planner"] for r in rows] == ["one", "two"] * 2


def test_unknown_planners_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="is not known"):
        run(tmp_path / "rows.jsonl", planners=["gready"])
    assert not (tmp_path / "rows.jsonl").exists()


def test_the_time_left_follows_what_cells_took():
    clock = runner._Clock(10.0)
    clock.add("quick", 1.0)
    clock.add("quick", 3.0)
    assert clock.left_s(["quick", "quick", "new"]) == 2 + 2 + 10
