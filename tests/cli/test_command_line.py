"""The command line as scripts use it: status, stdout, stderr."""

import json

import numpy as np
import pytest

from cluster_files import TWO_UNEQUAL
from drlpp.cli.main import run_command_line
from drlpp.graph import save_graph
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import load_plan, validate


@pytest.fixture
def files(tmp_path):
    """A graph file and a cluster file."""
    save_graph(random_graph(np.random.default_rng(5), 24, measured=True), tmp_path / "graph.json")
    (tmp_path / "cluster.yaml").write_text(TWO_UNEQUAL)
    return tmp_path


def plan(files, *more):
    arguments = ["plan", str(files / "graph.json"), "--cluster", str(files / "cluster.yaml"), "--budget", "1"]
    return run_command_line([*arguments, "--planner", "dp", *more])


def test_plan_prints_json_only(files, capsys):
    assert plan(files, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    expected = {"planner", "status", "iteration_time_s", "bottleneck_s", "throughput_samples_per_s", "lower_bound_s"}
    expected |= {"gap", "peak_memory_bytes", "planning_time_s", "num_stages", "num_microbatches", "plan"}
    assert expected <= set(answer)
    assert answer["planner"] == "dp"
    assert answer["status"] == "ok"
    assert answer["lower_bound_s"] <= answer["iteration_time_s"]
    assert len(answer["peak_memory_bytes"]) == 2
    assert answer["speedup_over_data_parallel"] > 0
    assert answer["plan"]["format"] == "drlpp-plan"


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


def test_no_feasible_plan_is_status_3(files, capsys):
    (files / "cluster.yaml").write_text(TWO_UNEQUAL.replace("16GB", "1MB"))
    assert plan(files, "--json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "infeasible"
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "{graph}", "--cluster", "nowhere"], "neither a preset nor a file"),
        (["plan", "{graph}"], "Missing option"),
        (["plan", "none.txt", "--cluster", "local-2"], "cannot read graph file"),
        (["plan", "timmy:resnet50", "--cluster", "local-2"], "timmy"),
        (["plan", "{graph}", "--cluster", "local-2", "--planner", "annealign"], "annealing"),
        (["plan", "{graph}", "--cluster", "local-2", "--budget", "-1"], "--budget"),
        (["plan", "{graph}", "--cluster", "local-2", "--num-microbatches", "0"], "--num-microbatches"),
        (["plan", "{graph}", "--cluster", "local-2", "--objective", "fast"], "--objective"),
        (["plan", "{graph}", "--cluster", "local-2", "-o", "no/such/folder/plan.json"], "cannot write"),
        (["validate", "none.json"], "cannot read plan file"),
        (["validate", "{graph}"], "drlpp-plan"),
        (["clusters", "nowhere"], "not known"),
        (["fly"], "No such command"),
        (["compare", "{graph}", "--cluster", "local-2", "--planners", ","], "names no planner"),
        (["export", "none.json", "--to", "excel", "-o", "x"], "excel"),
    ],
)
def test_bad_input_is_status_2_and_one_line(files, capsys, arguments, message):
    assert run_command_line([a.format(graph=files / "graph.json") for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_an_edited_plan_is_refused(files, capsys):
    path = files / "plan.json"
    assert plan(files, "-o", str(path)) == 0
    data = json.loads(path.read_text())
    first = next(iter(data["schedule"].values()))
    first[0], first[-1] = first[-1], first[0]
    path.write_text(json.dumps(data))
    capsys.readouterr()
    for verb in (["validate", str(path)], ["simulate", str(path)], ["run", str(path)]):
        assert run_command_line(verb) == 2
        assert "the order is F, then B" in capsys.readouterr().err


def test_a_python_file_without_a_function_is_told_how_to_name_one(files, capsys):
    path = files / "model.py"
    path.write_text("def build(): ...")
    assert run_command_line(["plan", str(path), "--cluster", "local-2"]) == 2
    assert "path/to/file.py:callable" in capsys.readouterr().err.splitlines()[-1]


def test_an_imported_profile_cannot_be_run(files, capsys):
    path = files / "plan.json"
    assert plan(files, "-o", str(path)) == 0
    capsys.readouterr()
    assert run_command_line(["run", str(path)]) == 2
    assert "emulate the plan (--emulate)" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("verb", ["clusters", "planners", "versions"])
def test_lists(verb, capsys):
    assert run_command_line([verb]) == 0
    assert capsys.readouterr().out
    assert run_command_line([verb, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_a_preset_prints_as_a_cluster_file(capsys, tmp_path):
    from drlpp.cluster import load_cluster

    assert run_command_line(["clusters", "mixed-desktops"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_cluster(str(path)) == load_cluster("mixed-desktops")


def test_help_has_examples(capsys):
    assert run_command_line(["plan", "--help"]) == 0
    assert "drlpp plan timm:resnet50" in capsys.readouterr().out
