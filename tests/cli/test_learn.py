"""`drlpp train-policy` on one problem, and the cost of learning in `drlpp plan`."""

import json

import pytest

from cluster_files import TWO_UNEQUAL
from drlpp.agent.training.pretrain import PretrainConfig
from drlpp.cli import learn
from drlpp.cli.main import run_command_line
from drlpp.graph import save_graph
from drlpp.graph.generate.synthetic import chain_graph


@pytest.fixture
def files(tmp_path):
    graph = chain_graph(8, forward_s=1e-3, tensor_bytes=1e5, param_bytes=1e6)
    save_graph(graph, tmp_path / "graph.json")
    (tmp_path / "cluster.yaml").write_text(TWO_UNEQUAL)
    return tmp_path


def on(files):
    return [str(files / "graph.json"), "--cluster", str(files / "cluster.yaml")]


def train(files, *more):
    return run_command_line(["train-policy", *on(files), "-o", str(files / "run"), "--episodes", "8", *more])


def test_training_on_a_problem_goes_on_and_gives_a_plan(files, capsys):
    assert train(files, "--iterations", "1", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["reward"], first["iterations"], first["num_measured"]) == ("simulated", 1, 0)
    assert train(files, "--iterations", "2", "--resume", "--json") == 0
    second = json.loads(capsys.readouterr().out)
    assert second["iterations"] == 2
    assert second["best_value_s"] <= first["best_value_s"]
    assert run_command_line(["validate", second["plan"]]) == 0
    assert run_command_line(["plan", *on(files), "--weights", second["checkpoint"], "--budget", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(answer["break_even_steps"]) == {"data-parallel", "best-baseline"}
    assert set(answer["plan"]["provenance"]["notes"]) == {"planning_took", "planning_repaid_after"}


@pytest.mark.slow
def test_training_from_measured_steps(files, capsys):
    assert train(files, "--iterations", "1", "--reward", "measured", "--emulate", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["reward"] == "measured"
    assert answer["emulated"]
    assert answer["num_measured"] > 0 == answer["num_failed"]
    assert answer["predicted_s"] * 0.99 < answer["best_value_s"] < answer["predicted_s"] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["GRAPH"], "needs devices: give --cluster"),
        (["--reward", "measured"], "name a MODEL"),
        (["--emulate"], "name a MODEL"),
        (["--cluster", "local-2"], "name a MODEL"),
        (["GRAPH", "--cluster", "local-2", "--emulate"], "give --reward measured or modelled too"),
        (["GRAPH", "--cluster", "local-2", "--start-from", "x"], "leave MODEL out"),
    ],
)
def test_what_does_not_go_together(files, capsys, arguments, message):
    given = [str(files / "graph.json") if a == "GRAPH" else a for a in arguments]
    assert run_command_line(["train-policy", *given, "-o", str(files / "run")]) == 2
    assert message in capsys.readouterr().err


def test_baselines_are_repaid_in_the_comparison(files, capsys):
    path = files / "rows.json"
    arguments = ["--planners", "data-parallel,uniform,dp", "--budget", "1", "--json", str(path)]
    assert run_command_line(["compare", *on(files), *arguments]) == 0
    rows = {row["planner"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["data-parallel"]["break_even_steps"] == {}
    assert "data-parallel" in rows["dp"]["break_even_steps"]
    best = min(rows.values(), key=lambda row: row["iteration_time_s"])
    assert all(n is None or n >= 0 for n in best["break_even_steps"].values())


def test_the_defaults_of_the_command_are_those_of_training():
    config = PretrainConfig()
    given = learn.Length().imitation_iterations
    assert (learn._ITERATIONS, given) == (config.iterations, config.imitation_iterations)
