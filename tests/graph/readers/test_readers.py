"""Third-party files: small ones made here, and the published ones where they are beside the checkout."""

import json
import os
from pathlib import Path

import pytest

from drlpp.errors import GraphError
from drlpp.graph import graph_to_dict
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.graph.readers import read_graph

DATA = Path(os.environ.get("DRLPP_DATA", Path(__file__).parents[4] / "shared" / "data"))


def write(tmp_path, content):
    path = tmp_path / "file"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello", "not a known format"),
        ("{", "not JSON"),
        ({"nodes": []}, "JSON of no known format"),
        ({"nodes": [{"a": 1}], "edges": []}, "JSON of no known format"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    with pytest.raises(GraphError, match=message):
        read_graph(write(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(GraphError, match="cannot read graph file"):
        read_graph(tmp_path / "none.txt")


def test_our_own_format_is_told_apart(tmp_path):
    g = chain_graph(3)
    assert read_graph(write(tmp_path, graph_to_dict(g))).ops == g.ops


@pytest.mark.parametrize(
    ("path", "num_ops", "seconds"),
    [
        ("pipedream/resnet50.txt", 177, 0.443419),
        ("pipedream/resnet18.txt", 71, 0.259742),
        ("pipedream/gnmt.txt", 48, 0.089416),
        ("dnn-partitioning/bert24_training.json", 32, 0.217813),
        ("dnn-partitioning/resnet50_training.json", 177, 0.462381),
        ("dnn-partitioning/bert_l-3_training.json", 138, 0.122987),
    ],
)
def test_published_files(path, num_ops, seconds):
    if not (DATA / path).is_file():
        pytest.skip(f"the published profile {path} is not beside this checkout (set DRLPP_DATA)")
    g = read_graph(DATA / path)
    total = sum(t.forward_s + t.input_grad_s + t.weight_grad_s for op in g.ops for t in op.times.values())
    assert g.num_ops == num_ops
    assert total == pytest.approx(seconds, rel=1e-5)
