import itertools

import numpy as np
import pytest

from drlpp.planners.bounds.min_cuts import Hypergraph, inseparable


def labels(num, hyperedges, threshold):
    sizes = [len(pins) for pins, _ in hyperedges]
    pointer = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    pins = np.array([p for pins, _ in hyperedges for p in pins], dtype=np.int64)
    weight = np.array([w for _, w in hyperedges], dtype=np.float64)
    return inseparable(Hypergraph(num, pointer, pins, weight), threshold)


def smallest_cut(num, hyperedges, a, b):
    """Over all sides that hold a and not b."""
    others = [i for i in range(num) if i not in (a, b)]
    best = np.inf
    for chosen in itertools.product([False, True], repeat=len(others)):
        side = {a, *(i for i, c in zip(others, chosen, strict=True) if c)}
        best = min(best, sum(w for pins, w in hyperedges if 0 < len(side & set(pins)) < len(set(pins))))
    return best


@pytest.mark.parametrize("seed", range(80))
def test_equal_labels_are_separated_by_heavy_cuts_only(seed):
    rng = np.random.default_rng(seed)
    num = int(rng.integers(2, 8))
    hyperedges = [
        (rng.integers(0, num, int(rng.integers(2, 5))).tolist(), float(rng.uniform(0, 3)))
        for _ in range(int(rng.integers(1, 14)))
    ]
    threshold = float(rng.uniform(0, 5))
    label = labels(num, hyperedges, threshold)
    for a, b in itertools.combinations(range(num), 2):
        if label[a] == label[b]:
            assert smallest_cut(num, hyperedges, a, b) > threshold


def test_a_heavy_edge_holds_together():
    label = labels(3, [([0, 1], 2.0), ([1, 2], 1.0)], 1.5)
    assert label[0] == label[1] != label[2]


def test_two_light_ways_round_a_ring_weigh_together():
    """Each edge alone may be cut; whoever leaves the ring cuts two."""
    ring = [([i, (i + 1) % 6], 1.0) for i in range(6)]
    assert len(set(labels(6, ring, 1.5).tolist())) == 1
    assert len(set(labels(6, ring, 2.5).tolist())) == 6


def test_a_value_counts_once_however_many_use_it():
    assert len(set(labels(3, [([0, 1, 2], 1.0)], 1.5).tolist())) == 3


def test_vertices_without_weight_stay_alone():
    assert len(set(labels(3, [([0, 0], 9.0)], 1.0).tolist())) == 3


def test_a_pin_that_is_no_vertex_is_refused():
    graph = Hypergraph(2, np.array([0, 2]), np.array([0, 2]), np.ones(1))
    with pytest.raises(ValueError, match=r"pins has the element 2: it must be in 0\.\.1"):
        inseparable(graph, 1.0)
