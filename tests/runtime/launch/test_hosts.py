"""Which devices are there."""

import pytest

from drlpp.errors import InputError
from drlpp.runtime.launch.hosts import Place, placed
from planner_cases import small_cluster

CLUSTER = small_cluster([["fast", "mid"], ["slow"]])
FIRST, SECOND = (host.name for host in CLUSTER.hosts)


def test_ranks_may_come_in_any_order():
    assert placed([Place(SECOND, 0), Place(FIRST, 1), Place(FIRST, 0)], CLUSTER) == (2, 1, 0)
    assert placed([Place(SECOND, 0)], CLUSTER) == (2,)


def test_hosts_that_are_not_in_the_cluster_or_lack_processes_are_refused():
    with pytest.raises(InputError, match="host 'other' is not in cluster .* with DRLPP_HOST=NAME"):
        placed([Place("other", 0)], CLUSTER)
    with pytest.raises(InputError, match="has 1 processes, and 2 devices .* --nproc-per-node 2"):
        placed([Place(FIRST, 0)], CLUSTER)
