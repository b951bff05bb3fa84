"""`drlpp run`: what is refused before the first step."""

import json

import pytest

from cli_files import graph_and_cluster, plan
from drlpp.cli.main import run_command_line


@pytest.fixture
def files(tmp_path):
    return graph_and_cluster(tmp_path)


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


def test_an_imported_profile_cannot_be_run(files, capsys):
    path = files / "plan.json"
    assert plan(files, "-o", str(path)) == 0
    capsys.readouterr()
    assert run_command_line(["run", str(path)]) == 2
    assert "emulate the plan (--emulate)" in capsys.readouterr().err.splitlines()[-1]
