"""`drlpp clusters`, `planners` and `versions`."""

import json

import pytest

from drlpp.cli.main import run_command_line


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
