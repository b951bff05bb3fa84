"""Generated graphs of known kinds of networks."""

import numpy as np
import pytest

from drlpp.graph import graph_hash
from drlpp.graph.generate.families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_are_valid_and_follow_the_seed(family):
    for seed in range(5):
        a, b = (FAMILIES[family](np.random.default_rng(seed)) for _ in range(2))
        assert graph_hash(a) == graph_hash(b)
        assert 10 <= a.num_ops <= 600
        assert sum(a.param_bytes.values()) > 0
        assert not (set(range(a.num_ops - 1)) - set(a.arcs[:, 0].tolist())), "an op that nobody reads"


def test_a_tied_embedding_is_read_at_both_ends():
    graphs = [FAMILIES["transformer"](np.random.default_rng(s)) for s in range(12)]
    tied = [[i for i, op in enumerate(g.ops) if "embedding" in op.params] for g in graphs]
    assert {len(t) for t in tied} == {0, 2}


def test_branches_of_an_inception_meet():
    graph = FAMILIES["inception"](np.random.default_rng(0))
    joins = [len(p) for op, p in zip(graph.ops, graph.predecessors, strict=True) if op.kind == "aten.cat"]
    assert min(joins) >= 3
