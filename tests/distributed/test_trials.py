"""Ranks that stay and measure one plan after another."""

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.errors import ExecutionError, InputError
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import Provenance
from drlpp.plan.assignment import Assignment
from drlpp.problem import PlanningProblem
from drlpp.runtime.launch.job import RunOptions
from drlpp.runtime.launch.plan_measurement import Trials
from drlpp.sim import Evaluator


def problem():
    types = tuple(
        DeviceType(name=name, memory_bytes=10**10, speed=speed, speed_is_given=True)
        for name, speed in (("fast", 1.0), ("slow", 0.5))
    )
    host = Host(name="here", devices=("fast", "slow"), link=Link(bandwidth=1e9, latency_s=1e-5))
    graph = random_graph(np.random.default_rng(0), 12, measured=True)
    return PlanningProblem.build(graph, Cluster("two", types, (host,)), num_microbatches=4)


def plan(devices):
    case = problem()
    labels = np.arange(case.graph.num_ops) * len(devices) // case.graph.num_ops
    return Evaluator(case).make_plan(Assignment(labels, devices), Provenance(planner="test"))


@pytest.mark.slow
def test_plans_are_measured_one_after_another_and_after_a_failure():
    two, one = plan(((0,), (1,))), plan(((1,),))
    options = RunOptions(steps=2, emulate=True, time_scale=0.2 / one.prediction.iteration_time_s)
    with Trials(2, options) as trials:
        for measured in (two, one, two):
            expected = measured.prediction.iteration_time_s
            assert expected * 0.99 < trials.measure(measured) < expected * 2
        broken = dataclasses.replace(two, schedule={d: actions[1:] for d, actions in two.schedule.items()})
        with pytest.raises(ExecutionError, match=r"trial 4 failed: rank \d: \w+Error: "):
            trials.measure(broken)
        assert trials.measure(one) > 0
        trials.timeout_s = 0.05
        with pytest.raises(ExecutionError, match=r"no answer in 0\.05 s"):
            trials.measure(one)


def test_more_devices_than_ranks():
    with Trials(1, RunOptions(emulate=True)) as trials, pytest.raises(InputError, match="uses 2 devices, there are 1"):
        trials.measure(plan(((0,), (1,))))


def test_wrong_numbers():
    with pytest.raises(InputError, match="num_ranks 0"):
        Trials(0, RunOptions())
    with pytest.raises(InputError, match="timeout_s 0"):
        Trials(1, RunOptions(), timeout_s=0.0)
