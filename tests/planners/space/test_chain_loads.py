"""Loads of runs of ops against sums over the ops, and splits that fit the memory."""

from __future__ import annotations

import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost.problem_times import problem_times
from drlpp.plan.settings import AGAIN, PLAIN
from drlpp.planners.space.chain_loads import (
    CHAIN_SETTINGS,
    chain_assignment,
    chain_loads,
    fitting_splits,
    memory_splits,
)
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from drlpp.solving import solve
from layered_graphs import decoder_graph
from planner_cases import small_problem

PLACES = ((0, 1), (2,), (0, 1))


@pytest.mark.parametrize("seed", range(5))
def test_loads_are_sums_over_the_ops(seed):
    problem = small_problem(seed, [["fast", "mid"], ["slow"]], num_ops=12)
    graph, times = problem.graph, problem_times(problem).total_s
    loads = chain_loads(problem, PLACES, PLAIN)
    for s, devices in enumerate(PLACES):
        slowest = times[problem.cluster.type_index[list(devices)]].max(axis=0)
        assert loads.seconds[s] == pytest.approx([slowest[:k].sum() for k in range(13)])
    for k in range(1, 12):
        crossing = {(e.before, e.tensor) for e in graph.edges if graph.index[e.before] < k <= graph.index[e.after]}
        assert loads.boundary_bytes[k] == pytest.approx(sum(graph.tensor_bytes[t] for _, t in crossing))
    memory = problem.cluster.memory_bytes
    assert loads.capacity_bytes.tolist() == [memory[:2].min() / 2, memory[2], memory[:2].min() / 2]


def test_recomputation_keeps_the_inputs_of_the_micro_batches_in_flight():
    problem = small_problem(0, [["mid"] * 3], num_ops=12)
    kept, again = (chain_loads(problem, ((0,), (1,), (2,)), settings) for settings in CHAIN_SETTINGS)
    assert kept.kept.tolist() == again.received.tolist() == [3, 2, 1]
    assert again.kept.tolist() == [1, 1, 1]
    assert kept.received.tolist() == [0, 0, 0]


def test_an_assignment_of_a_chain():
    made = chain_assignment((0, 2, 5), PLACES, 6, AGAIN)
    assert made.stage_of_op.tolist() == [0, 0, 1, 1, 1, 2]
    assert made.devices == PLACES
    assert made.settings == (AGAIN,) * 3


def layers_with(memory: int) -> PlanningProblem:
    host = Host(name="a", devices=("t",) * 4, link=Link(bandwidth=1e10))
    cluster = Cluster("equal", (DeviceType(name="t", memory_bytes=memory),), (host,))
    return PlanningProblem.build(decoder_graph(8), cluster, num_microbatches=8, optimizer="adamw")


def test_splits_for_the_memory_fit_where_the_uniform_split_does_not():
    problem = layers_with(510 * 10**6)
    assert any(Evaluator(problem).evaluate(split, ("1f1b",)).feasible for split in memory_splits(problem))
    assert any(Evaluator(problem).evaluate(split, ("1f1b",)).feasible for split in fitting_splits(problem))
    assert fitting_splits(layers_with(385 * 10**6)) == ()
    assert solve(problem, "drl", budget=2.0).status == "ok"
