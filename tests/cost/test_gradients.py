from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost import GradientGroup, gradient_groups, resident_and_optimizer, share_of_parameters
from drlpp.cost.stage_costs import stage_costs
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.problem import PlanningProblem


def tied_costs(optimizer="sgd", zero1=False, frozen=()):
    """Three stages with 10 bytes each; stages 0 and 2 share 4 bytes more. SGD: 2 bytes per parameter byte."""
    graph = chain_graph(3, param_bytes=10.0)
    ops = tuple(op if op.name == "op1" else dataclasses.replace(op, params=(*op.params, "w")) for op in graph.ops)
    graph = dataclasses.replace(graph, ops=ops, param_bytes={**graph.param_bytes, "w": 4.0}, frozen=frozenset(frozen))
    device = DeviceType(name="d", memory_bytes=10**12, memory_bandwidth=1e9)
    cluster = Cluster("c", (device,), (Host(name="h", devices=("d",) * 4, link=Link(bandwidth=1e30)),))
    problem = PlanningProblem.build(graph, cluster, optimizer=optimizer)
    problem = dataclasses.replace(problem, training=dataclasses.replace(problem.training, zero1=zero1))
    return stage_costs(problem, np.arange(3), 3)


def test_replicas_reduce_their_own_and_tied_parameters_go_over_all_holders():
    groups = gradient_groups(tied_costs(), [(1, 0), (2,), (3,)])
    assert groups == [
        GradientGroup((0,), (0, 1), 10.0, (10.0, 10.0)),
        GradientGroup((0, 2), (0, 1, 3), 4.0, (4.0, 4.0, 4.0)),
    ]


def test_no_reduction_on_one_device():
    assert gradient_groups(tied_costs(), [(0,), (1,), (0,)]) == []


def test_devices_that_sum_a_gradient_divide_its_states_under_zero1():
    """AdamW: two states are divided by the replicas, or by all that share the parameter; the rest is whole."""
    devices = [(1, 0), (2,), (3,)]
    resident, step = resident_and_optimizer(tied_costs(optimizer="adamw", zero1=True), devices, 4)
    tied = 4.0 * (2 + 2 / 3)
    assert resident.tolist() == pytest.approx([10.0 * 3 + tied, 10.0 * 3 + tied, 10.0 * 4, 10.0 * 4 + tied])
    whole, whole_step = resident_and_optimizer(tied_costs(optimizer="adamw"), devices, 4)
    assert whole.tolist() == pytest.approx([56.0, 56.0, 40.0, 56.0])
    assert (step / whole_step).tolist() == pytest.approx([(5 + 4 / 3) / 14] * 2 + [1.0, (10 + 4 / 3) / 14])


def test_shared_parameters_are_one_copy_on_a_device():
    resident, _ = resident_and_optimizer(tied_costs(), [(0,), (1,), (0,)], 4)
    assert resident.tolist() == pytest.approx([2 * 24.0, 2 * 10.0, 0.0, 0.0])
    apart, _ = resident_and_optimizer(tied_costs(), [(0,), (1,), (2,)], 4)
    assert apart.tolist() == pytest.approx([28.0, 20.0, 28.0, 0.0])
    share = share_of_parameters(tied_costs(), [(0,), (1,), (0,)], 4)
    assert share.tolist() == pytest.approx([24 / 28, 1.0, 1.0, 1.0])


def test_frozen_parameters_are_held_and_nothing_else():
    """Frozen is what stages 0 and 2 share, and all that stage 1 has of its own: 4 and 10 bytes, 1 per byte."""
    costs = tied_costs(optimizer="adamw", zero1=True, frozen=("w", "p1"))
    assert gradient_groups(costs, [(0,), (1, 2), (3,)]) == []
    resident, step = resident_and_optimizer(costs, [(0,), (1, 2), (3,)], 4)
    assert resident.tolist() == [44.0, 10.0, 10.0, 44.0]
    assert step.tolist() == pytest.approx([7e-8, 0.0, 0.0, 7e-8])
    together, _ = resident_and_optimizer(costs, [(0,), (1,), (0,)], 4)
    assert together.tolist() == [84.0, 10.0, 0.0, 0.0]  # one copy of what is shared
    assert share_of_parameters(costs, [(0,), (1,), (0,)], 4).tolist() == [1.0] * 4
