"""Transfers on the links of a preset."""

import pytest

from drlpp.cluster import load_cluster
from drlpp.cost import transfer_s


def test_transfer():
    c = load_cluster("paper-4x4-10gbe")
    assert transfer_s(c.path(0, 0), 1e9) < 1e-20
    assert transfer_s(c.path(0, 1), 12e9) == pytest.approx(1 + 10e-6)
    assert transfer_s(c.path(0, 4), 1.25e9) == pytest.approx(1 + 60e-6)
