"""The corpus."""

import numpy as np
import pytest

from drlpp.agent.training.corpus import (
    CLUSTER_SPLITS,
    GRAPH_SPLITS,
    LARGE_CLUSTER_SPLITS,
    LARGE_GRAPH_SPLITS,
    draw_large_problem,
    draw_problem,
)
from drlpp.cluster.generate import CLUSTER_KINDS
from drlpp.cost.optimizer_state import resident_factor
from drlpp.graph import graph_hash
from drlpp.graph.generate.families import FAMILIES
from drlpp.graph.generate.synthetic import chain_graph


def test_a_family_and_a_kind_of_cluster_belong_to_one_split():
    graphs = [g for names in GRAPH_SPLITS.values() for g in names]
    clusters = [c for names in CLUSTER_SPLITS.values() for c in names]
    assert sorted(graphs) == sorted(FAMILIES)
    assert sorted([*clusters, "racks", "mixed-racks"]) == sorted(CLUSTER_KINDS)
    for splits in (LARGE_GRAPH_SPLITS, LARGE_CLUSTER_SPLITS):
        large = [name for names in splits.values() for name in names]
        assert len(set(large)) == len(large)
    for split, names in LARGE_GRAPH_SPLITS.items():
        assert set(names) & set(FAMILIES) <= set(GRAPH_SPLITS[split])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_draws_stay_in_their_split_and_follow_the_seed(split):
    for seed in range(12):
        a, b = (draw_problem(np.random.default_rng(seed), split) for _ in range(2))
        assert graph_hash(a.graph) == graph_hash(b.graph)
        assert a.cluster == b.cluster
        assert a.training == b.training
        assert a.graph.name.startswith(GRAPH_SPLITS[split])
        assert a.cluster.name in CLUSTER_SPLITS[split]


def test_captured_graphs_are_among_the_draws():
    chain = chain_graph(5)
    drawn = [draw_problem(np.random.default_rng(s), "train", [chain]).graph is chain for s in range(60)]
    assert 10 < sum(drawn) < 40


def test_memory_is_tight_in_some_problems():
    def slack(problem):
        need = problem.graph.op_param_bytes.sum() * resident_factor(problem.graph, problem.training)
        return problem.cluster.memory_bytes.sum() / (need + problem.graph.op_saved_bytes.sum())

    tight = [slack(draw_problem(np.random.default_rng(s), "train")) < 4.01 for s in range(80)]
    assert 8 < sum(tight) < 60


def test_only_some_kinds_of_clusters_if_asked():
    names = {draw_problem(np.random.default_rng(s), "test", clusters=["uneven-hosts"]).cluster.name for s in range(8)}
    assert names == {"uneven-hosts"}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_large_problems_are_variants_that_may_fit(split):
    groups = 0
    for seed in range(12):
        a, b = (draw_large_problem(np.random.default_rng(seed), split) for _ in range(2))
        assert graph_hash(a.graph) == graph_hash(b.graph)
        assert (a.cluster, a.training) == (b.cluster, b.training)
        assert a.cluster.name.startswith(LARGE_CLUSTER_SPLITS[split])
        assert a.training.zero1
        assert 4 <= a.training.num_microbatches <= 256
        assert not a.space.micro_batch_sizes
        groups += any(kind.group is not None for kind in a.cluster.device_types)
    assert 0 < groups < 12
