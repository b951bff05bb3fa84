"""The groupings that a search tries."""

from collections import Counter

import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cluster.usual_groupings import UsualGroupings

LINK = Link(bandwidth=1e9)


def cluster(*hosts: str) -> Cluster:
    """A host for each word, with a device of the type of each letter."""
    types = tuple(DeviceType(name=name, memory_bytes=1) for name in sorted(set("".join(hosts))))
    return Cluster(
        "c",
        types,
        tuple(Host(name=f"h{h}", devices=tuple(own), link=LINK, network=LINK) for h, own in enumerate(hosts)),
    )


def lengths(found: UsualGroupings) -> list[tuple[int, ...]]:
    return [tuple(len(group) for group in grouping.groups) for grouping in found]


def any_degree(_: int) -> bool:
    return True


def test_a_host_of_equal_devices_is_divided_in_one_size_or_two():
    found = UsualGroupings(cluster("xxxx"), any_degree)
    assert lengths(found) == [(1, 1, 1, 1), (4,), (2, 2), (2, 1, 1)]
    assert found.equal == 3


def test_of_hosts_that_are_alike_half_may_have_another_size():
    found = UsualGroupings(cluster("xx", "xx"), any_degree)
    assert lengths(found) == [(1, 1, 1, 1), (2, 2), (2, 1, 1)]
    assert found[-1].groups == ((0, 1), (2,), (3,))


def test_each_type_of_a_mixed_host_has_its_own_size():
    found = UsualGroupings(cluster("xyyx"), any_degree)
    groups = {grouping.groups for grouping in found}
    assert groups == {
        ((0,), (1,), (2,), (3,)),
        ((0, 3), (1, 2)),
        ((0, 3), (1,), (2,)),
        ((0,), (1, 2), (3,)),
    }


def test_what_a_size_does_not_divide_is_in_smaller_groups():
    assert lengths(UsualGroupings(cluster("xxx"), any_degree)) == [(1, 1, 1), (2, 1)]
    assert lengths(UsualGroupings(cluster("x" * 6), any_degree))[1] == (4, 2)


def test_sizes_are_those_that_divide_ops_and_all_alike_where_that_is_asked():
    assert lengths(UsualGroupings(cluster("xxxx"), lambda degree: degree != 4)) == [(1, 1, 1, 1), (2, 2), (2, 1, 1)]
    found = UsualGroupings(cluster("xxxx", "yy", "yyy"), any_degree, one_degree=True)
    assert lengths(found) == [(1,) * 9]
    found = UsualGroupings(cluster("xxxx", "yy"), any_degree, one_degree=True)
    assert lengths(found) == [(1,) * 6, (2, 2, 2)]


def test_all_groups_may_be_asked_to_have_one_size():
    assert lengths(UsualGroupings(cluster("xxxx", "yy"), any_degree, size=4)) == [(4, 2)]
    assert lengths(UsualGroupings(cluster("xxxx", "xxxx"), any_degree, size=2)) == [(2, 2, 2, 2)]


@pytest.mark.parametrize("hosts", [("x" * 8,) * 3, ("x" * 8, "y" * 8), ("xxyy", "xxyy", "zz"), ("x", "yy")])
def test_groupings_are_legal_and_distinct_and_their_forms_count_their_groups(hosts):
    where = cluster(*hosts)
    found = UsualGroupings(where, any_degree)
    assert len({grouping.groups for grouping in found}) == len(found)
    for g, grouping in enumerate(found):
        grouping.check(where)
        kinds = Counter((where.devices[group[0]].type.name, len(group)) for group in grouping.groups)
        counted = Counter()
        for device, form in found.forms(g):
            counted.update({(where.devices[device].type.name, length): number for length, number in form.items()})
        assert counted == kinds
    assert found[:2] == [found[0], found[1]]
    assert found[-1] == found[len(found) - 1]
