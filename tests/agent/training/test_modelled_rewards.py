"""Values of plans that are run only where they may be better than all before."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from drlpp.agent.training.modelled_rewards import FIRST, ModelledValue, expected_improvement
from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.errors import ExecutionError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Plan, Trace
from drlpp.plan.assignment import Assignment
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator, simulate

GRAPH = chain_graph(24, forward_s=1e-3, tensor_bytes=1e5, param_bytes=1e5)


def cluster(*speeds: float) -> Cluster:
    types = tuple(
        DeviceType(name=f"t{i}", memory_bytes=10**10, speed=s, speed_is_given=True) for i, s in enumerate(speeds)
    )
    host = Host(name="h", devices=tuple(t.name for t in types), link=Link(bandwidth=1e9, latency_s=1e-5))
    return Cluster("c", types, (host,))


TOLD = PlanningProblem.build(GRAPH, cluster(1.0, 1.0), num_microbatches=4)
TRUE = dataclasses.replace(TOLD, cluster=cluster(1.0, 0.4))


class Machine:
    """Runs plans on devices that are not what the problem says, with noise."""

    def __init__(self) -> None:
        self.runs = 0
        self._rng = np.random.default_rng(0)

    def __call__(self, plan: Plan) -> tuple[float, Trace]:
        self.runs += 1
        trace = simulate(dataclasses.replace(plan, cluster=TRUE.cluster)).trace
        return trace.iteration_time_s * float(np.exp(self._rng.normal(0.0, 0.005))), trace


def split(at: int) -> Assignment:
    return Assignment((np.arange(GRAPH.num_ops) >= at).astype(np.int64), ((0,), (1,)))


def test_few_plans_are_run_and_the_best_is_found() -> None:
    machine = Machine()
    value = ModelledValue(TOLD, machine)
    order = np.random.default_rng(1).permutation(np.arange(1, GRAPH.num_ops)).tolist()
    values = {at: value(split(at)) for at in order}
    truth = {at: Evaluator(TRUE).evaluate(split(at)).iteration_time_s for at in order}
    best = min(values, key=values.__getitem__)
    assert truth[best] == pytest.approx(min(truth.values()), rel=0.02)
    assert value.knows(split(best))
    assert value.best_s == values[best]
    assert FIRST < machine.runs == value.num_measured < len(order) / 2
    told = [values[at] / truth[at] for at in order[FIRST:]]
    assert told == pytest.approx([1.0] * len(told), rel=0.2)


def test_what_fails_is_a_penalty_and_teaches_nothing() -> None:
    machine = Machine()

    def run(plan: Plan) -> tuple[float, Trace]:
        if len(plan.stages[0].ops) == 17:
            raise ExecutionError("rank 1 died")
        return machine(plan)

    value = ModelledValue(TOLD, run)
    first = [value(split(at)) for at in (12, 8, 20)]
    assert value(split(17)) == pytest.approx(3 * max(first), rel=1e-6)
    assert (value.num_measured, value.num_failed) == (FIRST, 1)
    assert value(split(17)) == pytest.approx(3 * max(first), rel=1e-6)
    assert value(split(18)) < 1.1 * min(first)


def test_expected_improvement() -> None:
    """Against an average over many draws; sure predictions gain their difference, or nothing."""
    rng = np.random.default_rng(0)
    draws = 1.05 * np.exp(rng.normal(0.0, 0.1, 400_000))
    assert expected_improvement(1.0, 1.05, 0.1) == pytest.approx(np.maximum(1.0 - draws, 0.0).mean(), rel=0.02)
    assert expected_improvement(1.0, 0.8, 1e-3) == pytest.approx(0.2, rel=1e-3)
    assert expected_improvement(1.0, 1.2, 1e-3) == pytest.approx(0.0, abs=1e-12)
    assert math.isfinite(expected_improvement(1.0, 5.0, 0.01))
