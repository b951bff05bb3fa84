"""The command line as scripts use it: status, stdout, stderr."""

import json

import pytest

from cli_files import graph_and_cluster, plan
from cluster_files import TWO_UNEQUAL
from drlpp.cli.main import run_command_line


@pytest.fixture
def files(tmp_path):
    return graph_and_cluster(tmp_path)


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


def test_a_python_file_without_a_function_is_told_how_to_name_one(files, capsys):
    path = files / "model.py"
    path.write_text("def build(): ...")
    assert run_command_line(["plan", str(path), "--cluster", "local-2"]) == 2
    assert "path/to/file.py:callable" in capsys.readouterr().err.splitlines()[-1]


def test_help_has_examples(capsys):
    assert run_command_line(["plan", "--help"]) == 0
    assert "drlpp plan timm:resnet50" in capsys.readouterr().out
