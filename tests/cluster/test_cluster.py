"""Clusters: devices, paths, subsets, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drlpp.cluster import Cluster, DeviceType, GroupLink, Host, Link, device_preset, device_presets
from drlpp.errors import ClusterError
from random_problems import random_cluster

FAST = DeviceType(name="fast", memory_bytes=10)
SLOW = DeviceType(name="slow", memory_bytes=5, speed=0.5)
LINK = Link(bandwidth=100.0, latency_s=0.1)


def two_hosts() -> Cluster:
    return Cluster(
        "c",
        (FAST, SLOW),
        (
            Host(name="a", devices=("fast", "slow"), link=LINK, network=Link(bandwidth=10.0, latency_s=1.0)),
            Host(name="b", devices=("slow",), network=Link(bandwidth=4.0, latency_s=2.0)),
        ),
    )


def test_devices_are_numbered_in_order():
    c = two_hosts()
    assert [(d.id, d.type.name, d.host) for d in c.devices] == [(0, "fast", 0), (1, "slow", 0), (2, "slow", 1)]
    assert c.type_index.tolist() == [0, 1, 1]
    assert c.memory_bytes.tolist() == [10, 5, 5]


def test_paths():
    c = two_hosts()
    assert c.path(0, 1) == LINK
    assert c.path(1, 2) == Link(bandwidth=4.0, latency_s=3.0)  # the smaller port, both latencies
    for a in range(3):
        for b in range(3):
            assert c.bandwidth[a, b] == c.path(a, b).bandwidth
            assert c.latency_s[a, b] == c.path(a, b).latency_s


def two_bridges() -> Host:
    """Devices 0 and 1 hang on one bridge, 2 and 3 on another."""
    groups = (GroupLink((0, 1), Link(bandwidth=9.0)), GroupLink((2, 3), Link(bandwidth=9.0)))
    return Host(name="a", devices=("fast",) * 4, link=LINK, links=groups)


def test_links_of_groups():
    c = Cluster("c", (FAST,), (two_bridges(),))
    assert c.path(0, 1).bandwidth == c.path(3, 2).bandwidth == 9.0
    assert c.path(1, 2) == c.path(0, 3) == LINK
    assert c.site_index.tolist() == [0, 0, 1, 1]
    assert c.hosts[0].all_links == (Link(bandwidth=9.0), LINK)
    assert c.hosts[0].slowest_link == Link(bandwidth=9.0)
    assert Host(name="one", devices=("fast",)).slowest_link is None


@given(seed=st.integers(0, 10**6), num_devices=st.integers(1, 9))
def test_tables_have_the_paths(seed, num_devices):
    c = random_cluster(np.random.default_rng(seed), num_devices)
    for a in range(num_devices):
        for b in range(num_devices):
            assert c.bandwidth[a, b] == c.path(a, b).bandwidth
            assert c.latency_s[a, b] == c.path(a, b).latency_s


def test_a_subset_keeps_links_of_groups():
    c = Cluster("c", (FAST,), (two_bridges(),)).subset([1, 2, 3])
    assert c.path(0, 1) == LINK
    assert c.path(1, 2).bandwidth == 9.0


def test_links_of_all_pairs_need_no_other():
    pair = (GroupLink((0, 1), LINK),)
    assert Cluster("c", (FAST,), (Host(name="a", devices=("fast",) * 2, links=pair),)).path(0, 1) == LINK
    with pytest.raises(ClusterError, match="nothing joins devices 0 and 2 of its 3: give it a link"):
        Cluster("c", (FAST,), (Host(name="a", devices=("fast",) * 3, links=pair),))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (((0,),), r"links between \[0\]: name two or more different devices"),
        (((0, 0),), r"links between \[0, 0\]: name two or more"),
        (((0, 4),), r"its devices are 0\.\.3, in the order of `devices`"),
        (((0, 1), (0, 1, 2)), r"two entries of links join devices \[0, 1\]: name a pair once"),
    ],
)
def test_bad_links_of_groups_are_refused(groups, message):
    with pytest.raises(ClusterError, match=message):
        Host(name="a", devices=("fast",) * 4, link=LINK, links=tuple(GroupLink(g, LINK) for g in groups))


def test_subset_numbers_devices_anew():
    c = two_hosts().subset([2, 1])
    assert [d.type.name for d in c.devices] == ["slow", "slow"]
    assert [h.name for h in c.hosts] == ["a", "b"]
    with pytest.raises(ClusterError, match="not all in cluster"):
        two_hosts().subset([3])
    with pytest.raises(ClusterError, match="not all in cluster"):
        two_hosts().subset([])


@pytest.mark.parametrize(
    ("types", "hosts", "message"),
    [
        ((FAST, FAST), (Host(name="a", devices=("fast",)),), "repeat a name"),
        ((FAST,), (), "has no devices"),
        ((FAST,), (Host(name="a", devices=("tpu",)),), "'tpu' is not defined"),
        ((FAST,), (Host(name="a", devices=("fast", "fast")),), "give it a link"),
        ((FAST,), (Host(name="a", devices=("fast",)), Host(name="b", devices=("fast",))), "each needs a network"),
        ((FAST,), (Host(name="a", devices=("fast",)), Host(name="a", devices=("fast",))), "repeat a name"),
    ],
)
def test_bad_clusters_are_refused(types, hosts, message):
    with pytest.raises(ClusterError, match=message):
        Cluster("c", types, hosts)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory_bytes": 0}, "memory is 0"),
        ({"memory_bytes": 1, "speed": 0.0}, "speed is 0"),
        ({"memory_bytes": 1, "peak_flops": (("float32", -1.0),)}, "peak of float32 is -1"),
        ({"memory_bytes": 1, "memory_bandwidth": -1.0}, "memory_bandwidth is -1"),
        ({"memory_bytes": 1, "host_op_s": -1.0}, "host_op_time is -1"),
        ({"memory_bytes": 1, "action_s": -1.0}, "action_time is -1"),
    ],
)
def test_bad_device_types_are_refused(values, message):
    with pytest.raises(ClusterError, match=message):
        DeviceType(name="x", **values)


@pytest.mark.parametrize(
    "values",
    [
        {"bandwidth": 0.0},
        {"bandwidth": np.inf},
        {"bandwidth": 1.0, "latency_s": -1.0},
        {"bandwidth": 1.0, "step_s": -1.0},
        {"bandwidth": 1.0, "ports": 0},
    ],
)
def test_bad_links_are_refused(values):
    with pytest.raises(ClusterError, match="a link"):
        Link(**values)


def test_device_database():
    assert device_preset("v100-sxm2-16gb").speed == 1.0
    for name, device in device_presets().items():
        assert device.name == device.preset == name
        assert device.source
        assert device.peak("float32") > 0
    assert device_preset("v100-sxm2-16gb").peak("bfloat16") == 15.7e12  # it lacks the type: the float32 rate
    with pytest.raises(ClusterError, match="'gpu' is not known"):
        device_preset("gpu")
