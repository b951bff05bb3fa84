"""`--objective serving` on the command line."""

from __future__ import annotations

import json

import pytest

from cluster_files import TWO_UNEQUAL
from drlpp.cli.main import run_command_line
from drlpp.graph import save_graph
from layered_graphs import decoder_graph


@pytest.fixture
def files(tmp_path):
    save_graph(decoder_graph(6), tmp_path / "graph.json")
    (tmp_path / "cluster.yaml").write_text(TWO_UNEQUAL)
    return tmp_path


def command(files, verb, *more):
    given = [verb, str(files / "graph.json"), "-c", str(files / "cluster.yaml"), "--budget", "1"]
    return run_command_line([*given, *more])


def test_engines_that_serve_are_planned_for_serving(files, capsys):
    assert command(files, "plan", "--planner", "dp", "--for", "vllm", "--sequences", "3", "--json") == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert (answer["objective"], answer["status"], answer["micro_batch_size"]) == ("serving", "ok", 3)
    assert "no attention operator was seen" in printed.err


def test_the_steady_state_of_an_engine_that_serves_is_serving(files, capsys):
    asked = ("--objective", "steady-state", "--json")
    assert command(files, "plan", "--planner", "dp", "--for", "vllm", *asked) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["objective"] == "serving"
    assert "vLLM only serves: planned for --objective serving" in printed.err


def test_an_iteration_of_training_is_not_asked_of_an_engine_that_serves(files, capsys):
    assert command(files, "plan", "--for", "sglang", "--objective", "iteration-time") != 0
    assert "is an iteration of training, but SGLang only serves: leave it out" in capsys.readouterr().err


def test_a_plan_of_serving_is_not_trained(files, capsys):
    path = str(files / "plan.json")
    assert command(files, "plan", "--planner", "dp", "--objective", "serving", "-o", path) == 0
    assert run_command_line(["validate", path]) == 0
    assert run_command_line(["simulate", path]) == 0
    capsys.readouterr()
    assert run_command_line(["run", path, "--steps", "1"]) == 2
    assert "trains, but the plan is for serving" in capsys.readouterr().err


def test_options_that_do_not_go_together(files, capsys):
    assert command(files, "plan", "--sequences", "3") == 2
    assert "--sequences and --context-length are for --objective serving" in capsys.readouterr().err
    assert command(files, "plan", "--objective", "serving", "--num-microbatches", "4") == 2
    assert "serving has no micro-batches: give --sequences" in capsys.readouterr().err
    assert command(files, "plan", "--objective", "serving", "--precision", "bf16") == 2
    assert "its weights are served as they are" in capsys.readouterr().err
