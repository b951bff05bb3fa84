"""Third-party files: small ones made here, and the published ones where they are beside the checkout."""

import json
import os
from pathlib import Path

import pytest

from drlpp.errors import GraphError
from drlpp.graph import REFERENCE, graph_to_dict
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.graph.readers import read_graph

DATA = Path(os.environ.get("DRLPP_DATA", Path(__file__).parents[4] / "shared" / "data"))

PIPEDREAM = """\
node2 -- Conv2d(3, 8) -- forward_compute_time=2.0, backward_compute_time=4.0, activation_size=100.0, parameter_size=8.0
node1 -- Input -- forward_compute_time=99.0, backward_compute_time=0.0, activation_size=7.0, parameter_size=0.0
node3 -- LSTM(8) -- forward_compute_time=1, backward_compute_time=1, activation_size=[10.0; 20.0], parameter_size=0.0
\tnode1 -- node2
\tnode2 -- node3
"""

DNN = {
    "maxSizePerFPGA": 1e9,
    "maxFPGAs": 2,
    "maxCPUs": 1,
    "nodes": [
        {
            "id": 1,
            "supportedOnFpga": 1,
            "cpuLatency": 9,
            "fpgaLatency": 2,
            "isBackwardNode": 0,
            "colorClass": 1,
            "size": 4,
        },
        {
            "id": 2,
            "supportedOnFpga": 1,
            "cpuLatency": 9,
            "fpgaLatency": 3,
            "isBackwardNode": 0,
            "colorClass": 2,
            "size": 0,
        },
        {"id": 3, "supportedOnFpga": 1, "cpuLatency": 9, "fpgaLatency": 5, "isBackwardNode": 1, "colorClass": 2},
        {"id": 4, "supportedOnFpga": 1, "cpuLatency": 9, "fpgaLatency": 7, "isBackwardNode": 1, "colorClass": 1},
    ],
    "edges": [
        {"sourceId": 1, "destId": 2, "cost": 0.5},
        {"sourceId": 2, "destId": 3, "cost": 0},
        {"sourceId": 3, "destId": 4, "cost": 0.25},
    ],
}

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


def test_dnn_partitioning_folds_the_backward_pass(tmp_path):
    g = read_graph(write(tmp_path, DNN))
    assert [op.members for op in g.ops] == [("1", "4"), ("2", "3")]
    assert [(op.times[REFERENCE].forward_s, op.times[REFERENCE].input_grad_s) for op in g.ops] == [
        (0.002, 0.007),
        (0.003, 0.005),
    ]
    assert [(e.src, e.dst, e.tensor, e.phase, e.transfer_s) for e in g.edges] == [
        ("1", "2", "1", "forward", 0.0005),
        ("2", "1", "3", "backward", 0.00025),
    ]
    assert g.has_transfer_times


def test_dnn_partitioning_with_backward_edges_listed_forward(tmp_path):
    data = json.loads(json.dumps(DNN))
    data["edges"] = [{"sourceId": 1, "destId": 2, "cost": 0.5}, {"sourceId": 4, "destId": 3, "cost": 0.25}]
    g = read_graph(write(tmp_path, data))
    assert [(e.src, e.dst, e.phase) for e in g.edges] == [("1", "2", "forward"), ("1", "2", "forward")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [{"sourceId": 1, "destId": 9, "cost": 0}]}, "unknown destId"),
        ({"edges": [{"sourceId": 3, "destId": 1, "cost": 0}]}, "from a backward node to a forward node"),
        ({"edges": [{"sourceId": 1, "destId": 2}, {"sourceId": 2, "destId": 1}]}, "cycle"),
        ({"nodes": [{"fpgaLatency": 1}]}, "has no 'id'"),
        ({"nodes": [DNN["nodes"][0], DNN["nodes"][0]]}, "appears twice"),
        ({"edges": [{"sourceId": 1, "destId": 2, "cost": "much"}]}, "wrong form"),
    ],
)
def test_bad_dnn_partitioning_files_are_refused(tmp_path, change, message):
    with pytest.raises(GraphError, match=message):
        read_graph(write(tmp_path, DNN | change))


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
