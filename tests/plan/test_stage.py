"""Stages and what their devices divide: illegal ones are refused in one line."""

import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.errors import PlanError
from drlpp.plan import Sharding, Stage
from drlpp.plan.stage import check_stages

FAST, SLOW, NETWORK = Link(bandwidth=3e11), Link(bandwidth=1e10), Link(bandwidth=1e9)
CLUSTER = Cluster(
    "mixed",
    tuple(DeviceType(name=name, memory_bytes=1) for name in "xy"),
    (
        Host(name="a", devices=("x", "x", "y", "y"), link=FAST, network=NETWORK),
        Host(name="b", devices=("x", "x"), link=FAST, network=NETWORK),
        Host(name="c", devices=("x", "x"), link=SLOW, network=NETWORK),
    ),
)


def stage(*replicas, index=0, **sharding):
    return Stage(index=index, ops=("op",), replicas=replicas, sharding=Sharding(**sharding))


def test_a_stage_knows_its_devices():
    divided = stage((0, 1), (4, 5), tensor=2)
    assert divided.devices == (0, 1, 4, 5)
    assert divided.num_replicas == 2
    assert divided.group(3) == (4, 5)
    assert divided.device(3) == 4


def test_groups_of_equal_devices_behind_equal_links_are_legal():
    check_stages([stage((0, 1), (4, 5), tensor=2), stage((1,), index=1)][:1], CLUSTER)
    check_stages([stage((0, 1), tensor=2), stage((2,), (3,), index=1)], CLUSTER)
    check_stages([stage((0, 1), tensor=2), stage((0, 1), index=1, tensor=2)], CLUSTER)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([stage((1, 4), tensor=2)], r"stage 0 has the replica \[1, 4\]: its devices are on the hosts a, b"),
        ([stage((1, 2), tensor=2)], r"stage 0 has the replica \[1, 2\]: its devices are of the types x, y"),
        ([stage((0, 1), (2, 3), tensor=2)], "stage 0 has replicas of unequal devices or links"),
        ([stage((0, 1), (6, 7), tensor=2)], "stage 0 has replicas of unequal devices or links"),
        ([stage((0, 1))], r"stage 0 has the replica \[0, 1\]: a replica of it is a group of 1"),
        (
            [stage((0, 1), tensor=2), stage((1,), index=1)],
            r"stage 1 runs on the group \[1\], and another stage on \[0, 1\]",
        ),
    ],
)
def test_what_is_no_placement_is_refused(stages, message):
    with pytest.raises(PlanError, match=message):
        check_stages(stages, CLUSTER)


@pytest.mark.parametrize(
    ("sharding", "message"),
    [
        ({"tensor": 0}, "tensor is 0"),
        ({"sequence": True}, "sequence is true with tensor 1"),
    ],
)
def test_bad_sharding_is_refused(sharding, message):
    with pytest.raises(PlanError, match=message):
        Sharding(**sharding)
