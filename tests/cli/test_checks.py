"""Input is checked before anything heavy is loaded."""

from pathlib import Path

import pytest

from drlpp.cli.checks import check_engine, check_model, check_planners, check_problem, check_weights, is_graph_file
from drlpp.errors import CaptureError, ClusterError, InputError


def test_what_can_be_used_passes():
    check_problem("timm:resnet50", "local-2", ["drl", "dp"])
    check_model("generated:nasnet?seed=3")
    check_model("graph.json")  # read right after
    check_weights(None)
    check_weights(Path("none"))
    assert check_engine(None) is None
    assert check_engine("megatron").name == "megatron"


def test_what_cannot_is_refused(tmp_path):
    with pytest.raises(ClusterError, match="neither a preset nor a file"):
        check_problem("timm:resnet50", "nowhere")
    with pytest.raises(CaptureError, match="there is no file"):
        check_problem("mine.py:make", "local-2")
    with pytest.raises(InputError, match="planner 'drll' is not known: did you mean 'drl'"):
        check_planners(["dp", "drll"])
    with pytest.raises(InputError, match="cannot read checkpoint"):
        check_weights(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="did you mean 'megatron'"):
        check_engine("megatronn")


def test_graph_files(tmp_path):
    (tmp_path / "graph").write_text("{}")
    assert is_graph_file(str(tmp_path / "graph"))
    assert is_graph_file("graph.json")
    assert not is_graph_file("timm:resnet50")
    assert not is_graph_file("mine.py")


def test_the_name_of_a_model_may_be_longer_than_that_of_a_file():
    check_model("transformers:GPT2LMHeadModel?" + "&".join(f"an_option_of_some_length_{k}={k}" for k in range(20)))
    assert not is_graph_file("a" * 300)
    with pytest.raises(CaptureError, match="there is no file"):
        check_model("a" * 300 + ".py:build")
