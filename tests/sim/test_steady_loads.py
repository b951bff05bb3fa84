"""Steady-state loads, against sums by hand."""

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost.stage_costs import costs_of_plan
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Assignment, Provenance, StageSettings
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from drlpp.sim.steady_loads import steady_loads_s


def loads(devices, settings=(), microbatches=6):
    host = Host(name="a", devices=("t",) * 3, link=Link(bandwidth=1e9))
    cluster = Cluster("equal", (DeviceType(name="t", memory_bytes=10**12),), (host,))
    graph = chain_graph(2, forward_s=1.0, tensor_bytes=5e8)
    problem = PlanningProblem.build(graph, cluster, num_microbatches=microbatches, optimizer="sgd")
    plan = Evaluator(problem).make_plan(Assignment(np.arange(2), devices, settings), Provenance(planner="by hand"))
    assert plan.prediction is not None
    found = steady_loads_s(plan, costs_of_plan(plan))
    assert plan.prediction.bottleneck_s == pytest.approx(found.max())
    return found.tolist()


def test_compute_and_messages_of_both_ends_count():
    assert loads(((0,), (2,))) == pytest.approx([3 + 2 * 0.5, 0, 3 + 2 * 0.5])


def test_replicas_divide_the_micro_batches_by_their_shares():
    assert loads(((0,), (1, 2))) == pytest.approx([4, 2, 2])
    uneven = (StageSettings(), StageSettings(shares=(1, 2)))
    assert loads(((0,), (1, 2)), uneven) == pytest.approx([4, 4 / 3, 8 / 3])


def test_a_stage_that_recomputes_runs_forward_twice():
    assert loads(((0,), (1,)), (StageSettings(True), StageSettings())) == pytest.approx([5, 4, 0])
