"""What a graph has to be divided is made once, and is the same for every device."""

import numpy as np

from drlpp.cluster import Link, device_preset
from drlpp.cost.sharding import shard
from drlpp.cost.sharding.uses import uses_of
from drlpp.graph.generate.synthetic import random_graph
from random_groups import with_splits

LINK = Link(bandwidth=1e11, latency_s=1e-6)


def graph_with_splits():
    rng = np.random.default_rng(5)
    return with_splits(rng, random_graph(rng, 12, measured=False))


def test_a_graph_remembers_its_uses_by_degree():
    graph = graph_with_splits()
    assert uses_of(graph, 2, sequence=False) is uses_of(graph, 2, sequence=False)
    assert uses_of(graph, 2, sequence=False) is not uses_of(graph, 4, sequence=False)
    assert uses_of(graph, 2, sequence=False).classes is uses_of(graph, 4, sequence=False).classes


def test_what_other_devices_asked_before_changes_nothing():
    asked = graph_with_splits()
    for name in ("h100-sxm5-80gb", "t4-16gb"):
        device = device_preset(name)
        for degree in (2, 4):
            again, fresh = (shard(g, device, LINK, degree, sequence=True) for g in (asked, graph_with_splits()))
            assert again.choice == fresh.choice
            assert again.graph == fresh.graph
            assert again.moves == fresh.moves
