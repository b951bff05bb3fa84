"""Sums of costs by stage and device."""

import numpy as np

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost.stage_costs import stage_costs
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.problem import PlanningProblem


def test_stage_costs_sum_ops_by_stage_and_device():
    fast = DeviceType(name="fast", memory_bytes=1, speed=2.0, speed_is_given=True, memory_bandwidth=50.0)
    slow = DeviceType(name="slow", memory_bytes=1, speed=1.0, speed_is_given=True)
    cluster = Cluster("c", (fast, slow), (Host(name="h", devices=("fast", "slow"), link=Link(bandwidth=1e9)),))
    problem = PlanningProblem.build(chain_graph(4, forward_s=1.0, param_bytes=10.0), cluster)
    costs = stage_costs(problem, np.array([0, 0, 0, 1]), 2)
    assert costs.forward_s.tolist() == [[1.5, 3.0], [0.5, 1.0]]
    assert costs.backward_s.tolist() == [[3.0, 6.0], [1.0, 2.0]]
    assert costs.resident_bytes[:, 0].tolist() == [90.0, 30.0]  # parameter, gradient, momentum
    assert costs.optimizer_s.tolist() == [[3.0, 0.0], [1.0, 0.0]]  # five passes over 30 bytes at 50 bytes/s
