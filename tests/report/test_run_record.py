from __future__ import annotations

import json
from pathlib import Path

import pytest

from drlpp.errors import InputError
from drlpp.report.html import render_report
from drlpp.report.run_record import load_run, run_chart

RUN = {
    "step_times_s": [2.0, 2.0, 1.0, 1.0],
    "first_step": 10,
    "losses": [],
    "predictions": [
        {"from_step": 10, "iteration_time_s": 1.5},
        {"from_step": 12, "iteration_time_s": 0.9},
    ],
    "decisions": [
        {"step": 12, "kind": "switch", "text": "switching gains", "cost_s": 0.1},
        {"step": 12, "kind": "switched", "text": "switched in 1 ms"},
        {"step": 13, "kind": "change", "text": "device 1 takes <2> times the seconds"},
    ],
}


def test_steps_predictions_and_marks(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RUN))
    chart = run_chart(load_run(path))
    measured, predicted = chart["series"]
    assert measured["points"] == [(11.0, 2.0), (12.0, 2.0), (13.0, 1.0), (14.0, 1.0)]
    assert predicted["points"] == [(11.0, 1.5), (13.0, 0.9), (14.0, 0.9)]
    assert [(m["x"], m["kind"]) for m in chart["marks"]] == [(12.5, "switched"), (13.5, "change")]


def test_the_page_lists_all_decisions(simulation, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RUN))
    page = render_report(simulation, run=load_run(path))
    assert "switching gains" in page
    assert "device 1 takes &lt;2&gt; times" in page
    assert "Steps of the run" not in render_report(simulation)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("{")
    with pytest.raises(InputError, match="run.json line 1: not JSON"):
        load_run(path)
    path.write_text('{"step_times_s": []}')
    with pytest.raises(InputError, match="give what `drlpp run --json` printed"):
        load_run(path)
