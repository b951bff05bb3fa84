"""Files of Piper: what is read, and what is refused."""

import dataclasses
import json

import pytest

from drlpp.cluster import Link, device_preset
from drlpp.cost.sharding import shard
from drlpp.errors import GraphError
from drlpp.graph import REFERENCE, graph_from_dict, graph_to_dict
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


def degrees(seconds, size, kept):
    costs = {"timePerSample": seconds, "parameterSize": size, "memoryUsageA": kept}
    return [{"id": "vanilla"} | costs, {"id": "activation recomp"} | costs]


GROUPS = PIPER | {
    "nodes": [
        {
            "id": i,
            "TMPCs": {"1": degrees(3.0, 100.0, 60.0), "2": degrees(1.8, 52.0, 40.0), "4": degrees(1.2, 28.0, 30.0)},
        }
        for i in range(2)
    ]
}


def test_the_degrees_of_piper_are_ways_to_divide_a_layer(tmp_path):
    g = read_graph(write(tmp_path, GROUPS))
    (split,) = g.ops[0].splits
    assert [(t.degree, sum(t[1:])) for t in split.times] == [(2, pytest.approx(1.8)), (4, pytest.approx(1.2))]
    assert [d for d in range(2, 9) if g.can_be_divided(d)] == [2, 4]
    assert graph_from_dict(graph_to_dict(g)) == g
    assert g.with_samples(2).ops[0].splits[0].times[0].forward_s == pytest.approx(1.2)
    device = dataclasses.replace(device_preset("a100-sxm4-80gb"), memory_bytes=1e9)
    for degree, times in ((2, 1.8), (4, 1.2)):
        shared = shard(g, device, Link(bandwidth=1e9, latency_s=1e-6), degree, sequence=False)
        assert shared.choice == (0, 0)
        assert [sum(dataclasses.astuple(op.times[REFERENCE])) for op in shared.graph.ops] == pytest.approx([times] * 2)
        assert sum(shared.graph.param_bytes.values()) == pytest.approx(2 * (4 + 96 / degree))
        assert sum(shared.graph.tensor_bytes[t] for t in shared.graph.ops[0].saved) == pytest.approx(20 + 40 / degree)
        assert not shared.moves


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [{"sourceId": 0, "destId": 5}]}, "unknown destId"),
        ({"edges": [{"sourceId": 0, "destId": 1}, {"sourceId": 1, "destId": 0}]}, "cycle"),
        ({"nodes": [PIPER["nodes"][0], {"id": 1, "TMPCs": {"2": []}}]}, "no TMPC of tensor-parallel degree '1'"),
        ({"nodes": [PIPER["nodes"][0], {"id": 1, "TMPCs": {"1": [{}]}}]}, "has no timePerSample"),
        ({"nodes": [PIPER["nodes"][0], {"id": 1, "TMPCs": {"two": []}}]}, "a number of devices is needed"),
        ({"nodes": [PIPER["nodes"][0], PIPER["nodes"][0]]}, "appears twice"),
    ],
)
def test_bad_piper_files_are_refused(tmp_path, change, message):
    with pytest.raises(GraphError, match=message):
        read_graph(write(tmp_path, PIPER | change))
