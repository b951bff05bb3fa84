"""Chains: simple ones, joined and halved ones, neighbours."""

from __future__ import annotations

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.planners.base import Budget
from drlpp.planners.engines.chain_search import Chain, ChainSearch, looped
from drlpp.planners.engines.cut_points import block_of_op
from drlpp.planners.engines.engine import ENGINES
from drlpp.problem import PlanningProblem
from layered_graphs import decoder_graph


def search_of(num_layers=8, devices=4, memory=10**10, engine="megatron") -> ChainSearch:
    host = Host(name="a", devices=("t",) * devices, link=Link(bandwidth=1e10))
    cluster = Cluster("equal", (DeviceType(name="t", memory_bytes=memory),), (host,))
    problem = PlanningProblem.build(decoder_graph(num_layers), cluster, num_microbatches=8)
    return ChainSearch(problem, ENGINES[engine], block_of_op(problem.graph, ENGINES[engine]), Budget(10.0))


RANKS = ((0,), (1,), (2,), (3,))


def test_simple_chains_use_the_ranks_they_are_given():
    search = search_of()
    for number in (1, 2, 3, 4, 8):
        for chain in search.simple(RANKS, number):
            assert chain.num_stages == number
            assert sorted(set(chain.starts)) == list(chain.starts)
            assert chain.starts[-1] < search.num_blocks
            assert chain.loops == (number == 8)


def test_stages_loop_over_equal_parts():
    assert looped(RANKS, 3) == (RANKS[:3], RANKS[3:])
    assert looped(RANKS, 6) == (RANKS[:3] * 2, RANKS[3:])
    assert looped(RANKS, 7) == (RANKS[:1] * 7, RANKS[1:])


def test_stages_are_joined_and_halved():
    search = search_of()
    chain = Chain((0, 2, 4, 6), RANKS)
    for number in (1, 2, 3, 4):
        assert search.with_stages(chain, number).num_stages == number
    joined = search.with_stages(chain, 2)
    assert set(joined.ranks + joined.spare) == set(RANKS)
    again = search.with_stages(joined, 4)
    assert len(set(again.ranks)) == 4
    assert search.with_stages(chain, 5) is None  # no rank is left


def test_only_what_fits_is_kept_and_the_nearest_is_named():
    search = search_of(memory=10**6)
    for chain in search.simple(RANKS, None):
        search.offer(chain)
    assert search.best is None
    result = search.result("p", 0, {}, {})
    assert result.status == "infeasible"
    assert result.reason.startswith("no plan can fit the memory")


def test_polishing_never_makes_a_chain_worse():
    search = search_of()
    lopsided = Chain((0, 1, 2, 3), RANKS)
    polished = search.polished(lopsided, Budget(5.0))
    assert search.value(polished) < search.value(lopsided)
    assert search.polished(lopsided, Budget(5.0), cuts_stay=True).starts == lopsided.starts
