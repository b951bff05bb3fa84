"""`drlpp bench`."""

import json

import pytest

from drlpp.cli.main import run_command_line

SUITE = "name: tiny\nsummary: one problem\ncases:\n  - {name: a, model: 'generated:dag?ops=12', cluster: local-2}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(*more):
    return run_command_line(["bench", "tiny.yaml", "--planners", "greedy,data-parallel", "--budget", "0.2", *more])


def test_a_suite_is_run_and_resumed(folder, capsys):
    assert bench("--markdown", "page.md") == 0
    captured = capsys.readouterr()
    assert "tiny: 1 cases" in captured.out
    assert "[2/2, 0 s left] a, data-parallel, seed 0" in captured.err
    assert "<!-- bench-tiny:begin -->" in (folder / "page.md").read_text()
    assert bench("--json") == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert [r["planner"] for r in answer["rows"]] == ["greedy", "data-parallel"]
    assert {p["planner"] for p in answer["planners"]} == {"greedy", "data-parallel"}
    assert answer["results"] == "tiny.jsonl"
    assert "2 of 2 cells are done already" in captured.err
    assert len((folder / "tiny.jsonl").read_text().splitlines()) == 2


def test_seeds_and_another_file(folder):
    assert bench("--seeds", "2", "-o", "other.jsonl") == 0
    assert len((folder / "other.jsonl").read_text().splitlines()) == 4


def test_rows_of_a_policy_that_learned_nothing_have_a_name_of_their_own(folder):
    command = ["bench", "tiny.yaml", "--planners", "drl,greedy", "--budget", "0.5", "--policy-only"]
    assert run_command_line([*command, "--weights", "none"]) == 0
    rows = [json.loads(line) for line in (folder / "tiny.jsonl").read_text().splitlines()]
    assert [(r["planner"], r["status"]) for r in rows] == [
        ("drl (policy only, weights none)", "ok"),
        ("greedy", "ok"),
    ]


def test_the_list(folder, capsys):
    assert run_command_line(["bench", "--list"]) == 0
    assert "generalisation" in capsys.readouterr().out
    assert run_command_line(["bench", "--list", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["smoke"]["cases"][0]["cluster"] == "mixed-desktops"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no suite is named"),
        (["tiny.yaml", "--weights", "nowhere"], "cannot read checkpoint nowhere"),
        (["no-such"], "neither known nor a YAML file"),
        (["tiny.yaml", "--planners", ","], "names no planner"),
        (["tiny.yaml", "-o", "nowhere/rows.jsonl"], "cannot write"),
    ],
)
def test_bad_input_is_status_2(folder, capsys, arguments, message):
    assert run_command_line(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
