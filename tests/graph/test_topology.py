"""Orders and reachability."""

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drlpp.errors import GraphError
from drlpp.graph.topology import ancestor_masks, depths, topological_order


@st.composite
def dags(draw):
    n = draw(st.integers(1, 12))
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30))
    relabel = draw(st.permutations(range(n)))
    return n, [(relabel[min(a, b)], relabel[max(a, b)]) for a, b in pairs if a != b]


@given(dags())
def test_order_is_the_smallest_topological_one(dag):
    n, arcs = dag
    graph = nx.DiGraph(arcs)
    graph.add_nodes_from(range(n))
    assert topological_order(n, arcs) == list(nx.lexicographical_topological_sort(graph))


def test_a_cycle_is_shown():
    with pytest.raises(GraphError, match="b -> c -> b|c -> b -> c"):
        topological_order(4, [(0, 1), (1, 2), (2, 1), (2, 3)], ["a", "b", "c", "d"])


@given(dags())
def test_ancestors_and_depths_agree_with_networkx(dag):
    n, arcs = dag
    graph = nx.DiGraph(arcs)
    graph.add_nodes_from(range(n))
    order = topological_order(n, arcs)
    position = {v: i for i, v in enumerate(order)}
    predecessors = [sorted({position[a] for a, b in arcs if position[b] == i}) for i in range(n)]
    masks, levels = ancestor_masks(predecessors), depths(predecessors)
    for v in range(n):
        ancestors = {position[u] for u in nx.ancestors(graph, v)}
        assert masks[position[v]] == sum(1 << i for i in ancestors)
        assert levels[position[v]] == max((1 + levels[i] for i in ancestors), default=0)
