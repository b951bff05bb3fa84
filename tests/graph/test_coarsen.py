"""Coarsening keeps every partition of the groups legal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drlpp.errors import InputError
from drlpp.graph.coarsen import coarsen
from drlpp.graph.generate.synthetic import chain_graph, random_graph


@given(st.integers(0, 10**6), st.integers(1, 80), st.data())
def test_groups_are_few_and_in_topological_order(seed, num_ops, data):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, num_ops, branching=0.5, skips=0.3)
    limit = data.draw(st.integers(1, num_ops))
    group = coarsen(graph, limit, rng.random(num_ops))
    assert set(group) == set(range(group.max() + 1))
    assert group.max() + 1 <= limit
    assert (group[graph.arcs[:, 0]] <= group[graph.arcs[:, 1]]).all()


def test_heavy_ops_stay_alone():
    weights = np.array([1.0, 50.0, 1.0, 1.0, 60.0, 1.0])
    group = coarsen(chain_graph(6), 3, weights)
    loads = np.bincount(group, weights=weights)
    assert loads.max() <= 62
    assert group[1] != group[4]


def test_enough_groups_change_nothing():
    assert coarsen(chain_graph(4), 4, np.ones(4)).tolist() == [0, 1, 2, 3]


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        coarsen(chain_graph(3), 0, np.ones(3))
    with pytest.raises(InputError, match="2 weights for 3 ops"):
        coarsen(chain_graph(3), 2, np.ones(2))
