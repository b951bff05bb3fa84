"""Groups of devices."""

import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cluster.grouping import Grouping, completed, single_devices
from drlpp.errors import ClusterError

LINK = Link(bandwidth=1e9)
CLUSTER = Cluster(
    "two",
    tuple(DeviceType(name=name, memory_bytes=1) for name in "xy"),
    (
        Host(name="a", devices=("x",) * 4, link=LINK, network=LINK),
        Host(name="b", devices=("x", "x", "y"), link=LINK, network=LINK),
    ),
)


def test_groups_are_in_order_of_their_first_device():
    grouping = Grouping(((5,), (3, 2), (0, 1), (6,), (4,)))
    assert grouping.groups == ((0, 1), (3, 2), (4,), (5,), (6,))
    assert grouping.divides
    grouping.check(CLUSTER)
    assert not single_devices(CLUSTER).divides


def test_idle_devices_are_grouped_like_those_of_their_host():
    assert completed([(2, 3)], CLUSTER).groups == ((0, 1), (2, 3), (4,), (5,), (6,))
    assert completed([(0, 1), (2,)], CLUSTER).groups == ((0, 1), (2,), (3,), (4,), (5,), (6,))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (((0, 1), (2, 3)), "differ in device 4"),
        (((0, 1, 2, 3), (4, 5), (6,), (7,)), "differ in device 7"),
        (((0, 1, 2), (3, 4), (5,), (6,)), "on the hosts a, b: a group lies within one host"),
        (((0, 1, 2, 3), (4,), (5, 6)), "of the types x, y: a group has devices of one type"),
    ],
)
def test_groups_that_do_not_fit_a_cluster_are_refused(groups, message):
    with pytest.raises(ClusterError, match=message):
        Grouping(groups).check(CLUSTER)


@pytest.mark.parametrize(
    ("groups", "message"), [(((0,), ()), "has no devices"), (((0, 1), (1,)), "device 1 is in two groups")]
)
def test_bad_groupings_are_refused(groups, message):
    with pytest.raises(ClusterError, match=message):
        Grouping(groups)
