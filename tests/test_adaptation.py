"""The process beside a run proposes a better plan from what was measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drlpp.adaptation import adaptation, propose
from drlpp.cost.calibration import measurements
from drlpp.errors import InfeasibleError, InputError
from drlpp.graph.generate.synthetic import random_graph
from drlpp.plan import Plan
from drlpp.problem import PlanningProblem
from drlpp.runtime.adapt.proposals import Question
from drlpp.sim import simulate
from drlpp.solving import solve
from random_problems import random_cluster
from wrong_costs import noisy_trace, true_cluster


def question(plan: Plan, real: Plan) -> Question:
    traces = [noisy_trace(np.random.default_rng(0), plan, real.cluster, real.graph, 0.05) for _ in range(3)]
    return Question(
        measured=(measurements(plan, traces),),
        current=plan,
        others=(),
        parallelism=frozenset({"pp", "dp"}),
        planning_s=1.0,
        seed=0,
    )


def test_a_better_plan_is_proposed() -> None:
    rng = np.random.default_rng(2)
    cluster, graph = random_cluster(rng, 4), random_graph(rng, 40, measured=True)
    problem = PlanningProblem.build(graph, cluster, num_microbatches=8)
    plan = solve(problem, "dp", budget=1.0).plan
    assert plan is not None
    real = true_cluster(rng, cluster)
    proposal = propose(question(plan, dataclasses.replace(plan, cluster=real)))
    assert proposal.current.prediction is not None
    assert proposal.best.prediction is not None
    now = simulate(dataclasses.replace(plan, cluster=real)).prediction.iteration_time_s
    assert proposal.current.prediction.iteration_time_s == pytest.approx(now, rel=0.03)
    assert proposal.best.prediction.iteration_time_s <= proposal.current.prediction.iteration_time_s
    best = simulate(dataclasses.replace(proposal.best, cluster=real, graph=graph)).prediction.iteration_time_s
    assert best == pytest.approx(proposal.best.prediction.iteration_time_s, rel=0.05)
    known = solve(dataclasses.replace(problem, cluster=real), "dp", budget=1.0).plan
    assert known is not None
    assert known.prediction is not None
    assert best < 1.05 * known.prediction.iteration_time_s


def test_what_is_out_of_range() -> None:
    with pytest.raises(InputError, match="after_steps 1, every 2: must be at least 2 and 1"):
        adaptation(after_steps=1)
    with pytest.raises(InputError, match="planning_s is 0: it must be positive"):
        adaptation(planning_s=0)


def test_nothing_fits() -> None:
    rng = np.random.default_rng(2)
    cluster, graph = random_cluster(rng, 2), random_graph(rng, 10, measured=True)
    plan = solve(PlanningProblem.build(graph, cluster, num_microbatches=2), "dp", budget=1.0).plan
    assert plan is not None
    small = tuple(dataclasses.replace(t, memory_bytes=1) for t in cluster.device_types)
    tight = dataclasses.replace(plan, cluster=dataclasses.replace(cluster, device_types=small))
    with pytest.raises(InfeasibleError, match="no plan fits the memory"):
        propose(question(tight, tight))
