"""Graph files of a wrong form are refused in one line; those of the right form are not changed."""

import json
import time

import numpy as np
import pytest

from drlpp.errors import GraphError
from drlpp.graph import graph_from_dict, graph_hash, graph_to_dict
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from mutations import mutated, refusal


def written(graph):
    return json.loads(json.dumps(graph_to_dict(graph)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 4}, "g.json: schema_version is 4: this release reads the versions 1 to 3"),
        ({"ops": {}}, "g.json: ops = {}: must be a list"),
        ({"tensor_bytes": []}, "g.json: tensor_bytes = []: must be a mapping of names to values"),
        ({"speed": 1}, "g.json: unknown key 'speed': "),
        ({"sources": ""}, "g.json: unknown key 'sources': did you mean 'source'?"),
    ],
)
def test_the_message_says_place_value_and_rule(change, message):
    with pytest.raises(GraphError) as caught:
        graph_from_dict(written(chain_graph(3)) | change, "g.json")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tensor_parallel", 2, "unknown key 'ops.1.tensor_parallel'"),
        ("output_bytes", "much", "ops.1.output_bytes = 'much': must be a number"),
        ("output_bytes", -1, "ops.1.output_bytes = -1: must be at least 0"),
        ("forward", [1], "ops.1.forward = [1]: must have at least 2 entries"),
        ("times", {"reference": [1, 2, "x"]}, "ops.1.times.reference.2 = 'x': must be a number"),
    ],
)
def test_of_an_op(key, value, message):
    data = written(chain_graph(3))
    data["ops"][1][key] = value
    with pytest.raises(GraphError, match="g.json: ") as caught:
        graph_from_dict(data, "g.json")
    assert message in str(caught.value)


def test_a_list_is_no_graph():
    with pytest.raises(GraphError, match="found a list: a graph is a JSON object"):
        graph_from_dict([], "g.json")


def test_no_wrong_value_is_answered_in_the_words_of_python():
    for _, data in mutated(written(random_graph(np.random.default_rng(0), 5, measured=True))):
        message = refusal(lambda d: graph_from_dict(d, "g.json"), data, GraphError)
        assert not message or message.startswith("g.json: ")


def test_whole_numbers_stay_whole():
    data = written(chain_graph(3))
    data["tensor_bytes"] = dict.fromkeys(data["tensor_bytes"], 64)
    graph = graph_from_dict(data)
    assert graph_hash(graph) == graph_hash(graph_from_dict(written(graph)))
    assert all(type(size) is int for size in graph.tensor_bytes.values())


def test_large_graphs_are_read_fast():
    """20,000 ops: about a third of a second of CPU time, a third of that for the schema."""
    data = written(random_graph(np.random.default_rng(0), 20_000))
    began = time.process_time()
    graph_from_dict(data)
    assert time.process_time() - began < 3
