"""`--layers`: what is read and what is refused, and `drlpp plan` with it."""

from __future__ import annotations

import json

import pytest

from cluster_files import TWO_UNEQUAL
from drlpp.cli.inputs import given_layers
from drlpp.cli.main import run_command_line
from drlpp.errors import InputError
from drlpp.graph import save_graph
from layered_graphs import decoder_graph


@pytest.mark.parametrize(
    ("text", "counts"), [("5,6x10,5", (5, *[6] * 10, 5)), ("3", (3,)), (" 1 , 2x2", (1, 2, 2)), ("0,4", (0, 4))]
)
def test_text(text, counts):
    assert given_layers(text, None, None) == counts


@pytest.mark.parametrize("text", ["", "5,", "6x", "x3", "5,-1", "2x0", "a", "1.5"])
def test_text_that_is_no_split(text):
    with pytest.raises(InputError, match="is no number of layers: write the layers of each stage, '5,6x10,5'"):
        given_layers(text, None, None)


def test_other_wishes_are_refused():
    assert given_layers(None, "dp", 3) == ()
    assert given_layers("2,2", None, 2) == (2, 2)
    for planner, number in (("dp", None), (None, 3)):
        with pytest.raises(InputError, match="--layers gives the split itself"):
            given_layers("2,2", planner, number)


@pytest.fixture
def files(tmp_path):
    save_graph(decoder_graph(6), tmp_path / "graph.json")
    (tmp_path / "cluster.yaml").write_text(TWO_UNEQUAL)
    return tmp_path


def plan(files, *more):
    return run_command_line(
        ["plan", str(files / "graph.json"), "-c", str(files / "cluster.yaml"), "--budget", "1", *more]
    )


def test_a_given_split_is_planned_and_exported(files, capsys):
    assert plan(files, "--layers", "4,2", "--for", "megatron", "--json", "-o", str(files / "plan.json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["planner"], answer["num_stages"], answer["status"]) == ("given", 2, "ok")
    assert "restriction" not in answer
    assert run_command_line(["export", str(files / "plan.json"), "--to", "megatron", "-o", str(files / "a.sh")]) == 0
    assert '"Et*4|t*2L"' in (files / "a.sh").read_text()


def test_a_number_of_stages(files, capsys):
    assert plan(files, "--planner", "uniform", "--num-stages", "2", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["planner"], answer["num_stages"]) == ("uniform", 2)


def test_wrong_wishes_are_one_line(files, capsys):
    assert plan(files, "--layers", "4,3") == 2
    assert "--layers gives 7 layers to 2 stages, but 'model.layers' has 6" in capsys.readouterr().err
    assert plan(files, "--planner", "data-parallel", "--num-stages", "2") == 2
    assert "makes one stage" in capsys.readouterr().err
