"""Files of dnn-partitioning: backward nodes are folded into the forward ones, and bad files are refused."""

import json

import pytest

from drlpp.errors import GraphError
from drlpp.graph import REFERENCE
from drlpp.graph.readers import read_graph

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


def write(tmp_path, content):
    path = tmp_path / "file"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


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
