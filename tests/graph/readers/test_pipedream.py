"""Profiles of PipeDream: what is read, and what is refused."""

import json

import pytest

from drlpp.errors import GraphError
from drlpp.graph import REFERENCE
from drlpp.graph.readers import read_graph

PIPEDREAM = """\
node2 -- Conv2d(3, 8) -- forward_compute_time=2.0, backward_compute_time=4.0, activation_size=100.0, parameter_size=8.0
node1 -- Input -- forward_compute_time=99.0, backward_compute_time=0.0, activation_size=7.0, parameter_size=0.0
node3 -- LSTM(8) -- forward_compute_time=1, backward_compute_time=1, activation_size=[10.0; 20.0], parameter_size=0.0
\tnode1 -- node2
\tnode2 -- node3
"""


def write(tmp_path, content):
    path = tmp_path / "file"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_pipedream(tmp_path):
    g = read_graph(write(tmp_path, PIPEDREAM))
    assert [op.name for op in g.ops] == ["node1", "node2", "node3"]
    assert [op.kind for op in g.ops] == ["Input", "Conv2d", "LSTM"]
    times = [op.times[REFERENCE] for op in g.ops]
    assert [t.forward_s for t in times] == [0, 0.002, 0.001]
    assert [t.input_grad_s for t in times] == [0, 0.002, 0.001]
    assert [t.weight_grad_s for t in times] == [0, 0.002, 0]
    assert g.tensor_bytes == {"node1": 0, "node2": 100, "node3": 30}
    assert g.param_bytes == {"node2": 8}
    assert g.source == str(tmp_path / "file")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tnode2 -- node3", "\tnode2 -- node9", "line 5: .*unknown vertex 'node9'"),
        ("\tnode2 -- node3", "\tnode2", "line 5: 'node2' is not an edge"),
        ("\tnode1 -- node2", "\tnode3 -- node2", "cycle: node"),
        ("node1 -- Input", "node2 -- Input", "line 2: vertex 'node2' appears twice"),
        ("=2.0", "=fast", "line 1: forward_compute_time='fast' is not a number"),
        ("=2.0", "=-2.0", "line 1: forward_compute_time is -2.0"),
        ("backward_compute_time=4.0, ", "", "line 1: backward_compute_time is missing"),
        ("node1 -- Input --", "node1 Input", "line 2: .* is not a vertex"),
    ],
)
def test_bad_pipedream_files_are_refused(tmp_path, old, new, message):
    with pytest.raises(GraphError, match=message):
        read_graph(write(tmp_path, PIPEDREAM.replace(old, new, 1)))
