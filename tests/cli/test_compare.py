"""`drlpp compare`: rows, and plans that can be checked."""

import json

import pytest

from cli_files import graph_and_cluster
from drlpp.cli.main import run_command_line


@pytest.fixture
def files(tmp_path):
    return graph_and_cluster(tmp_path)


def test_compare_writes_rows_whose_plans_can_be_checked(files):
    rows = files / "rows.json"
    arguments = ["compare", str(files / "graph.json"), "--cluster", str(files / "cluster.yaml"), "--budget", "1"]
    arguments += ["--planners", "data-parallel,uniform,dp", "--json", str(rows), "--html", str(files / "c.html")]
    assert run_command_line([*arguments, "--plans-dir", str(files / "plans")]) == 0
    data = json.loads(rows.read_text())
    assert [r["planner"] for r in data["rows"]] == ["data-parallel", "uniform", "dp"]
    for row in data["rows"]:
        assert row["status"] == "ok"
        assert data["lower_bound_s"] <= row["iteration_time_s"]
        path = files / "row.json"
        path.write_text(json.dumps(row["plan"]))
        assert run_command_line(["validate", str(path)]) == 0
        assert run_command_line(["validate", str(files / "plans" / f"{row['planner']}.json")]) == 0
