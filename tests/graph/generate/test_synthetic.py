"""Generated graphs."""

import numpy as np
import pytest

from drlpp.graph import REFERENCE
from drlpp.graph.generate.synthetic import chain_graph, random_graph


def test_a_chain_takes_twice_as_long_backward():
    graph = chain_graph(3, forward_s=0.5, tensor_bytes=4.0, param_bytes=2.0)
    assert graph.arcs.tolist() == [[0, 1], [1, 2]]
    times = [op.times[REFERENCE] for op in graph.ops]
    assert all(t.input_grad_s + t.weight_grad_s == 2 * t.forward_s == 1.0 for t in times)
    assert sum(graph.param_bytes.values()) == 6


@pytest.mark.parametrize("branching", [0.0, 0.8])
def test_a_random_graph_hangs_together_and_follows_from_the_seed(branching):
    graphs = [random_graph(np.random.default_rng(3), 25, branching=branching, skips=0.0) for _ in range(2)]
    assert graphs[0] == graphs[1]
    arcs = graphs[0].arcs
    assert set(arcs[:, 1].tolist()) == set(range(1, 25))  # all but the first read something
    assert set(arcs[:, 0].tolist()) == set(range(24))  # all but the last are read
    assert (len(arcs) == 24) == (branching == 0)


def test_costs_are_measured_times_or_amounts():
    measured, counted = (random_graph(np.random.default_rng(0), 6, measured=m) for m in (True, False))
    assert all(op.times and not op.forward.flop for op in measured.ops)
    assert all(op.forward.flop and not op.times for op in counted.ops)
