"""Every price stands once in Python and once in C++: the two are equal, and nobody else has a formula of his own."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.cluster import Cluster, DeviceType, GroupLink, Host, Link
from drlpp.cost import all_gather_s, all_reduce_s, all_to_all_s, place_stages, reduce_scatter_s, transfer_s
from drlpp.cost.collectives import FILL_BYTES, FILL_STEPS
from drlpp.cost.stage_costs import stage_costs
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.native import library
from drlpp.problem import PlanningProblem

SRC = Path(__file__).parents[2] / "src"
LINKS = st.builds(
    Link,
    bandwidth=st.floats(1e6, 1e12),
    latency_s=st.floats(0.0, 1e-3),
    step_s=st.one_of(st.just(0.0), st.floats(1e-8, 1e-4)),
)
SIZES = st.floats(1.0, 1e11)


@given(path=LINKS, num_bytes=SIZES)
def test_a_transfer_costs_the_same_in_both_languages(path, num_bytes):
    assert library.transfer_s(path.bandwidth, path.latency_s, num_bytes) == transfer_s(path, num_bytes)


def group_links(draw, num_devices: int) -> tuple[GroupLink, ...]:
    """Links of some pairs of devices."""
    pairs = list(itertools.combinations(range(num_devices), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return tuple(GroupLink(pair, draw(LINKS)) for pair in chosen)


@settings(max_examples=100, deadline=None)
@given(
    hosts=st.lists(st.tuples(st.integers(1, 5), LINKS, LINKS), min_size=1, max_size=4),
    num_bytes=SIZES,
    data=st.data(),
)
def test_an_all_reduce_costs_the_same_in_both_languages(hosts, num_bytes, data):
    device = DeviceType(name="d", memory_bytes=10**12)
    cluster = Cluster(
        "c",
        (device,),
        tuple(
            Host(name=f"h{i}", devices=("d",) * n, link=link, network=port, links=group_links(data.draw, n))
            for i, (n, link, port) in enumerate(hosts)
        ),
    )
    everybody = tuple(range(cluster.num_devices))
    placed = place_stages(
        stage_costs(PlanningProblem.build(chain_graph(1), cluster), np.zeros(1, dtype=np.int64), 1),
        cluster,
        (everybody,),
        1,
    )
    members = sorted(data.draw(st.sets(st.sampled_from(everybody), min_size=1)))
    compiled = library.all_reduce_s(placed, np.array(members), num_bytes)
    assert compiled == pytest.approx(all_reduce_s(cluster, members, num_bytes), rel=1e-15)


def pairs_with_nvlink() -> Cluster:
    """Devices 0 and 1, 2 and 3 have a link of 100 GB/s; the others one of 10 GB/s."""
    links = tuple(GroupLink(pair, Link(bandwidth=1e11, latency_s=1e-6)) for pair in ((0, 1), (2, 3)))
    host = Host(name="h", devices=("d",) * 4, link=Link(bandwidth=1e10, latency_s=1e-5), links=links)
    return Cluster("c", (DeviceType(name="d", memory_bytes=10**12),), (host,))


def test_a_ring_is_as_slow_as_its_slowest_link():
    cluster = pairs_with_nvlink()
    assert all_reduce_s(cluster, (0, 1), 1e9) == pytest.approx(1e9 / 1e11 + 2e-6)
    assert all_reduce_s(cluster, (1, 2), 1e9) == pytest.approx(1e9 / 1e10 + 2e-5)
    assert all_reduce_s(cluster, (0, 1, 2, 3), 1e9) == pytest.approx(1.5 * 1e9 / 1e10 + 6e-5)


def test_one_kernel_starts_once_hands_on_and_fills_its_channels():
    link = Link(bandwidth=1e10, latency_s=8e-6, step_s=1e-6)
    cluster = Cluster("c", (DeviceType(name="d", memory_bytes=1),), (Host(name="h", devices=("d",) * 4, link=link),))
    half_full = 1.5 * FILL_BYTES / 1e10 + (6 + FILL_STEPS / 2) * 1e-6
    assert all_reduce_s(cluster, range(4), FILL_BYTES) == pytest.approx(8e-6 + half_full)
    for half in (reduce_scatter_s, all_gather_s):
        assert half(cluster, range(4), FILL_BYTES) == pytest.approx(8e-6 + half_full / 2)
    sent = 0.75 * FILL_BYTES / 1e10
    assert all_to_all_s(cluster, range(4), FILL_BYTES) == pytest.approx(8e-6 + sent + FILL_STEPS / 4 * 1e-6)


def test_an_all_to_all_uses_each_link():
    assert all_to_all_s(pairs_with_nvlink(), (0, 1), 1e9) == pytest.approx(5e8 / 1e11 + 1e-6)
    both = 2.5e8 / 1e11 + 1e-6 + 5e8 / 1e10 + 1e-5
    assert all_to_all_s(pairs_with_nvlink(), (0, 1, 2, 3), 1e9) == pytest.approx(both)


def test_unknown_devices_are_refused():
    cluster = Cluster("c", (DeviceType(name="d", memory_bytes=1),), (Host(name="h", devices=("d",)),))
    costs = stage_costs(PlanningProblem.build(chain_graph(1), cluster), np.zeros(1, dtype=np.int64), 1)
    placed = place_stages(costs, cluster, ((0,),), 1)
    with pytest.raises(ValueError, match=r"devices has the element 1: it must be in 0\.\.0"):
        library.all_reduce_s(placed, np.ones(1, dtype=np.int64), 1.0)


def written_in(pattern: str, suffixes: tuple[str, ...]) -> set[str]:
    """Files whose code, without comments, has a pattern."""
    found = set()
    for path in SRC.rglob("*"):
        if path.suffix in suffixes:
            code = re.sub(r'"""(.|\n)*?"""|#[^\n]*|//[^\n]*', "", path.read_text())
            if re.search(pattern, code):
                found.add(path.relative_to(SRC).as_posix())
    return found


def test_the_ring_is_written_once_in_each_language():
    steps = r"2(\.0)? \* (np\.maximum)?\(\w+ - 1(\.0)?[,)]"
    assert written_in(steps, (".py",)) == {"drlpp/cost/collectives.py"}
    assert written_in(steps, (".h", ".cpp")) == {"native/cost/collectives.h"}


def test_bytes_are_divided_by_a_bandwidth_once_in_each_language():
    transfer = r"bytes(\[\w+\])? / [\w.\->]*bandwidth|size / [\w.\->]*bandwidth"
    prices = {"drlpp/cost/collectives.py", "drlpp/cost/links.py"}
    assert written_in(transfer, (".py",)) == prices
    assert written_in(transfer, (".h", ".cpp")) == {"native/cost/collectives.h", "native/cost/links.h"}
