"""Files of Piper: what is read, and what is refused."""

import json

import pytest

from drlpp.errors import GraphError
from drlpp.graph.readers import read_graph

PIPER = {
    "maxMemoryPerDevice": 1e9,
    "maxDevices": 2,
    "bandwidth": 1e9,
    "nodes": [
        {
            "id": i,
            "name": f"layer{i}",
            "TMPCs": {"1": [{"id": "vanilla", "timePerSample": 3.0, "parameterSize": i * 8.0}]},
        }
        for i in range(2)
    ],
    "edges": [{"sourceId": 0, "destId": 1, "communicationCost": 64.0}],
}


def write(tmp_path, content):
    path = tmp_path / "file"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_piper(tmp_path):
    g = read_graph(write(tmp_path, PIPER))
    assert [op.name for op in g.ops] == ["layer0", "layer1"]
    assert [sum((t.forward_s, t.input_grad_s, t.weight_grad_s)) for op in g.ops for t in op.times.values()] == [3, 3]
    assert g.param_bytes == {"layer1": 8}
    assert g.tensor_bytes["layer0"] == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [{"sourceId": 0, "destId": 5}]}, "unknown destId"),
        ({"edges": [{"sourceId": 0, "destId": 1}, {"sourceId": 1, "destId": 0}]}, "cycle"),
        ({"nodes": [PIPER["nodes"][0], {"id": 1, "TMPCs": {"2": []}}]}, "no TMPC of tensor-parallel degree '1'"),
        ({"nodes": [PIPER["nodes"][0], {"id": 1, "TMPCs": {"1": [{}]}}]}, "has no timePerSample"),
        ({"nodes": [PIPER["nodes"][0], PIPER["nodes"][0]]}, "appears twice"),
    ],
)
def test_bad_piper_files_are_refused(tmp_path, change, message):
    with pytest.raises(GraphError, match=message):
        read_graph(write(tmp_path, PIPER | change))
