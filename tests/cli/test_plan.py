"""`drlpp plan`: for an engine, and what that costs."""

import json

import pytest

from drlpp.cli.main import run_command_line
from drlpp.cli.plan import restriction_cost
from drlpp.plan import Objective
from drlpp.planners.engines.engine import ENGINES
from problem_files import planned, problem_files


@pytest.fixture
def files(tmp_path):
    return problem_files(tmp_path)


def test_a_plan_for_an_engine_can_be_exported_and_says_what_it_costs(files, capsys):
    path = str(files / "plan.json")
    assert planned(files, "plan", "--for", "megatron", "-o", path) == 0
    assert "Megatron-LM can express" in capsys.readouterr().err
    assert run_command_line(["export", path, "--to", "megatron", "-o", str(files / "m.sh")]) == 0
    assert planned(files, "plan", "--for", "deepspeed", "--objective", "steady-state", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    cost = answer["restriction"]
    assert cost["engine"] == "deepspeed"
    assert cost["restricted_s"] == answer["bottleneck_s"]
    assert cost["cost"] == pytest.approx(max(0, cost["restricted_s"] / cost["unrestricted_s"] - 1))


def test_expert_without_a_split_is_status_2_and_left_out_of_a_comparison(files, capsys):
    assert planned(files, "plan", "--planner", "expert") == 2
    assert "carries no split of its source" in capsys.readouterr().err
    rows = files / "rows.json"
    arguments = ["compare", str(files / "graph.json"), "--cluster", str(files / "cluster.yaml"), "--budget", "0.1"]
    assert run_command_line([*arguments, "--json", str(rows)]) == 0
    names = [row["planner"] for row in json.loads(rows.read_text())["rows"]]
    assert "dp" in names
    assert "expert" not in names
    assert run_command_line([*arguments, "--planners", "expert,dp", "--json", str(rows)]) == 0
    found = {row["planner"]: row["status"] for row in json.loads(rows.read_text())["rows"]}
    assert found == {"expert": "not-applicable", "dp": "ok"}


def test_without_an_engine_there_is_no_restriction(files, capsys):
    assert planned(files, "plan", "--json") == 0
    assert "restriction" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("more", "graph", "message"),
    [
        (["--for", "megatrn"], "graph.json", "did you mean 'megatron'"),
        (["--for", "megatron"], "no-modules.json", "names no such list"),
    ],
)
def test_bad_engines_are_status_2(files, capsys, more, graph, message):
    assert planned(files, "plan", *more, graph=graph) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_restriction_costs_nothing_when_the_free_search_finds_less(files, tmp_path):
    from drlpp.plan import load_plan

    path = tmp_path / "plan.json"
    assert planned(files, "plan", "-o", str(path)) == 0
    plan = load_plan(path)
    for free in (None, plan):
        cost = restriction_cost(ENGINES["torch"], plan, free, Objective.ITERATION_TIME)
        assert cost["cost"] == 0
        assert "found nothing better" in cost["summary"]
