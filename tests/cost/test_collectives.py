"""Collectives against closed forms."""

import dataclasses

import pytest

from drlpp.cluster import load_cluster
from drlpp.cost import all_gather_s, all_reduce_s, all_to_all_s, reduce_scatter_s


def of_messages(name):
    """A preset where every step of a collective is a message."""
    c = load_cluster(name)
    hosts = (dataclasses.replace(h, link=dataclasses.replace(h.link, step_s=0.0)) for h in c.hosts)
    return dataclasses.replace(c, hosts=tuple(hosts))


def test_all_reduce():
    c = of_messages("paper-4x4-10gbe")
    assert all_reduce_s(c, [0], 1e9) == 0
    assert all_reduce_s(c, [0, 1], 0) == 0
    assert all_reduce_s(c, [0, 1, 2, 3], 12e9) == pytest.approx(2 * 3 / 4 + 6 * 10e-6)
    assert all_reduce_s(c, [0, 4], 1.25e9) == pytest.approx(2 / 2 + 2 * 60e-6)
    inside, between = 2 / 2 * 1.25e9 / 12e9 + 2 * 10e-6, 2 / 2 + 2 * 60e-6
    assert all_reduce_s(c, [0, 1, 4, 5], 1.25e9) == pytest.approx(inside + between)


def test_other_collectives():
    c = of_messages("paper-4x4-10gbe")
    everybody = range(16)
    for half in (all_gather_s, reduce_scatter_s):
        assert half(c, everybody, 1e9) == pytest.approx(all_reduce_s(c, everybody, 1e9) / 2)
    assert all_to_all_s(c, [0], 1e9) == 0
    assert all_to_all_s(c, [0, 1], 0) == 0
    assert all_to_all_s(c, [0, 1, 2, 3], 12e9) == pytest.approx(3 / 4 + 10e-6)
    # four devices of a host send 12 of 16 parts each through its port
    assert all_to_all_s(c, everybody, 1.25e9) == pytest.approx(4 * 12 / 16 + 60e-6)
