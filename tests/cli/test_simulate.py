"""`drlpp validate`, `simulate`, `report` and `export` of a plan."""

import json

import pytest

from cli_files import graph_and_cluster, plan
from drlpp.cli.main import run_command_line
from drlpp.plan import load_plan, validate


@pytest.fixture
def files(tmp_path):
    return graph_and_cluster(tmp_path)


def test_plan_validate_simulate_report_export(files, capsys):
    path = files / "plan.json"
    assert plan(files, "-o", str(path)) == 0
    validate(load_plan(path))
    capsys.readouterr()
    assert run_command_line(["validate", str(path)]) == 0
    assert "legal" in capsys.readouterr().out
    assert run_command_line(["simulate", str(path), "--json", "--trace", str(files / "trace.json")]) == 0
    simulated = json.loads(capsys.readouterr().out)
    assert simulated["iteration_time_s"] == pytest.approx(load_plan(path).prediction.iteration_time_s, rel=1e-9)
    assert json.loads((files / "trace.json").read_text())["traceEvents"]
    assert run_command_line(["simulate", str(path)]) == 0
    assert run_command_line(["report", str(path), "-o", str(files / "report.html")]) == 0
    assert (files / "report.html").read_text().startswith("<!doctype html>")
    assert run_command_line(["export", str(path), "--to", "dot", "-o", str(files / "plan.dot")]) == 0
    assert (files / "plan.dot").read_text().startswith("digraph")
