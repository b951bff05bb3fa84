"""The certified bounds against plans: random ones by the thousand, and every plan there is on tiny problems."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import Objective, StageSettings
from drlpp.plan.assignment import Assignment
from drlpp.plan.shares import lowest_terms
from drlpp.planners.base import Budget
from drlpp.planners.bounds.lower_bound import lower_bound
from drlpp.planners.registry import get_planner
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from random_problems import random_links, with_shares


def random_problem(seed: int, objective: Objective, num_ops: int, num_devices: int) -> PlanningProblem:
    """Unequal devices over hosts with unequal links; costs that make now transfers, now gradients, now work matter."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, num_ops, branching=float(rng.choice([0.0, 0.4])), skips=0.2, measured=rng.random() < 0.7)
    types = tuple(
        DeviceType(name=f"t{i}", memory_bytes=10**15, speed=float(rng.choice([0.25, 1.0, 3.0]))) for i in range(3)
    )
    equal = rng.random() < 0.5
    hosts, left = [], num_devices
    while left:
        size = int(rng.integers(1, left + 1))
        left -= size
        names = ["t0"] * size if equal else [f"t{int(rng.integers(3))}" for _ in range(size)]
        hosts.append(
            Host(
                name=f"h{len(hosts)}",
                devices=tuple(names),
                link=Link(bandwidth=float(10 ** rng.uniform(8.5, 11.5))),
                links=random_links(rng.spawn(1)[0], size),
                network=Link(bandwidth=float(10 ** rng.uniform(8.5, 11.5)), latency_s=float(rng.choice([0.0, 1e-5]))),
            )
        )
    number = int(rng.choice([1, 2, 4, 7, 16]))
    return PlanningProblem.build(graph, Cluster("c", types, tuple(hosts)), num_microbatches=number, objective=objective)


def random_assignment(rng: np.random.Generator, problem: PlanningProblem) -> Assignment:
    """Few or many stages; replicas and several stages per device are likely."""
    graph, total = problem.graph, problem.cluster.num_devices
    most = int(rng.integers(1, 5))
    labels = np.zeros(graph.num_ops, dtype=np.int64)
    for i in range(graph.num_ops):
        low = max((int(labels[j]) for j in graph.predecessors[i]), default=0)
        labels[i] = min(most, low + int(rng.random() < 0.3))
    used, stage_of_op = np.unique(labels, return_inverse=True)
    devices = []
    for _ in used:
        count = int(rng.integers(1, total + 1))
        devices.append(tuple(int(d) for d in rng.permutation(total)[:count]))
    assignment = Assignment(stage_of_op.astype(np.int64), tuple(devices))
    return with_shares(rng, assignment) if problem.may_share and rng.random() < 0.7 else assignment


def value(problem: PlanningProblem, evaluator: Evaluator, assignment: Assignment) -> float:
    if problem.objective == "steady-state":
        return evaluator.bottleneck_s(assignment)
    return evaluator.evaluate(assignment).iteration_time_s


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), num_ops=st.integers(2, 14), num_devices=st.integers(1, 6))
def test_no_random_plan_is_below_the_steady_bound(seed, num_ops, num_devices):
    problem = random_problem(seed, "steady-state", num_ops, num_devices)
    bound, evaluator, rng = lower_bound(problem), Evaluator(problem), np.random.default_rng(seed)
    for _ in range(25):
        assert value(problem, evaluator, random_assignment(rng, problem)) >= bound.value_s


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), num_ops=st.integers(2, 14), num_devices=st.integers(1, 6))
def test_no_random_plan_is_below_the_step_bound(seed, num_ops, num_devices):
    problem = random_problem(seed, "iteration-time", num_ops, num_devices)
    bound, evaluator, rng = lower_bound(problem), Evaluator(problem), np.random.default_rng(seed)
    for _ in range(10):
        assert value(problem, evaluator, random_assignment(rng, problem)) >= bound.value_s


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), objective=st.sampled_from(["steady-state", "iteration-time"]))
def test_no_planner_is_below_the_bound(seed, objective):
    problem = random_problem(seed, objective, 12, 4)
    bound = lower_bound(problem)
    for name in ("dp", "pipedream", "metis", "annealing"):
        plan = get_planner(name).solve(problem, Budget(0.15), seed).plan
        if plan is not None:
            best = plan.prediction.bottleneck_s if objective == "steady-state" else plan.prediction.iteration_time_s
            assert best >= bound.value_s


def every_assignment(problem: PlanningProblem, max_stages: int, most_share: int = 1):
    """All legal partitions in up to `max_stages` stages on all ordered device sets, devices shared or not, with all
    shares of the micro-batches up to `most_share`."""
    n, total = problem.graph.num_ops, problem.cluster.num_devices
    sets = [g for r in range(1, total + 1) for g in itertools.permutations(range(total), r)]
    groups = [
        (g, StageSettings(shares=lowest_terms(shares, len(g), 0)))
        for g in sets
        for shares in itertools.product(range(1, most_share + 1), repeat=len(g))
        if math.gcd(*shares) == 1
    ]
    for stages in range(1, max_stages + 1):
        for labels in itertools.product(range(stages), repeat=n):
            if len(set(labels)) < stages or any(labels[a] > labels[b] for a, b in problem.graph.arcs.tolist()):
                continue
            for each in itertools.product(groups, repeat=stages):
                devices, settings = zip(*each, strict=True)
                yield Assignment(np.array(labels, dtype=np.int64), devices, settings)


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_at_all_is_below_the_bound(seed):
    problem = random_problem(seed, "steady-state", 3, 3)
    evaluator = Evaluator(problem)
    best = min(value(problem, evaluator, a) for a in every_assignment(problem, 2))
    assert best >= lower_bound(problem).value_s


@pytest.mark.parametrize("objective", ["steady-state", "iteration-time"])
@pytest.mark.parametrize("seed", range(8))
def test_no_plan_of_unequal_shares_is_below_the_bound(seed, objective):
    problem = random_problem(seed, objective, 3 - (seed // 2) % 2, 2 + (seed // 2) % 2)
    evaluator = Evaluator(problem)
    plans = list(every_assignment(problem, 2, 3 if problem.may_share else 1))
    value = evaluator.evaluate_many(plans, ("list",) if objective == "iteration-time" else ("1f1b",))
    best = (value.bottleneck_s if objective == "steady-state" else value.iteration_time_s).min()
    assert best >= lower_bound(problem).value_s


def test_the_bound_is_attained_by_a_chain_that_divides_evenly():
    from drlpp.graph.generate.synthetic import chain_graph

    cluster = Cluster(
        "c",
        (DeviceType(name="d", memory_bytes=10**12),),
        (Host(name="h", devices=("d",) * 4, link=Link(bandwidth=1e9)),),
    )
    problem = PlanningProblem.build(chain_graph(8), cluster, objective="steady-state")
    plan = get_planner("dp").solve(problem, Budget(5), 0).plan
    assert plan.prediction.bottleneck_s == pytest.approx(lower_bound(problem).value_s, rel=1e-6)
