"""Orders of devices, and their folds."""

import numpy as np

from drlpp.planners.space.device_orders import device_orders, fold_depths, folded, host_order
from planner_cases import levels_cluster, small_cluster


def test_orders_of_devices_keep_hosts_together_and_skip_equal_ones():
    cluster = levels_cluster([2, 3], [1e10, 1e9])
    assert device_orders(cluster, np.ones(3), 10, np.random.default_rng(0)) == [host_order(cluster)]
    mixed = small_cluster([["fast", "fast"], ["slow"], ["mid", "mid"]])
    orders = device_orders(mixed, np.array([1.0, 2.0, 4.0]), 10, np.random.default_rng(0))
    assert len(orders) == 6
    assert orders[0] == (0, 1, 2, 3, 4)
    assert all(abs(o.index(0) - o.index(1)) == 1 for o in orders)


def test_folding_makes_equal_pipelines():
    cluster = levels_cluster([3, 2], [1e10, 1e9])
    assert folded(host_order(cluster), 2) == ((0, 3), (1, 4), (2, 5))
    assert 2 in fold_depths(cluster, host_order(cluster))
    assert fold_depths(small_cluster([["fast", "mid"], ["slow", "slow"]]), (0, 1, 2, 3)) == []
