from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.errors import InputError, PlanError, ScheduleError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Assignment, Objective, Provenance, validate
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from random_problems import random_problem


def chain_problem(num_devices: int = 4, memory: int = 10**12, num_microbatches: int = 8) -> PlanningProblem:
    device = DeviceType(name="d", memory_bytes=memory)
    host = Host(name="h", devices=("d",) * num_devices, link=Link(bandwidth=1e12))
    graph = chain_graph(num_devices, tensor_bytes=1.0)
    return PlanningProblem.build(graph, Cluster("c", (device,), (host,)), num_microbatches=num_microbatches)


CHAIN = Assignment(np.arange(4), ((0,), (1,), (2,), (3,)))


def test_best_schedule_is_chosen():
    for seed in range(30):
        problem, assignment = random_problem(seed)
        evaluator = Evaluator(problem)
        best = evaluator.evaluate(assignment)
        alone = [evaluator.evaluate(assignment, (name,)) for name in ("gpipe", "1f1b")]
        key = [(e.over_memory_bytes, e.iteration_time_s * (1 + 1e-12)) for e in alone]
        assert (best.over_memory_bytes, best.iteration_time_s) <= min(key)


def test_memory_decides_before_time():
    evaluator = Evaluator(chain_problem(memory=11))
    evaluation = evaluator.evaluate(CHAIN, ("gpipe", "1f1b"))
    assert evaluation.schedule_name == "1f1b"
    assert evaluation.feasible
    assert evaluation.over_memory_bytes == 0.0


def test_score_grows_with_the_excess():
    roomy = Evaluator(chain_problem()).evaluate(CHAIN)
    assert roomy.score(Objective.ITERATION_TIME) == roomy.iteration_time_s
    assert roomy.score(Objective.STEADY_STATE) == roomy.bottleneck_s
    tight = [Evaluator(chain_problem(memory=m)).evaluate(CHAIN, ("gpipe",)) for m in (15, 10, 5)]
    scores = [e.score(Objective.ITERATION_TIME) for e in tight]
    assert 10 * roomy.iteration_time_s < scores[0] < scores[1] < scores[2]
    assert not tight[0].feasible


def test_plan_is_legal_and_carries_the_prediction():
    problem, assignment = random_problem(7)
    evaluator = Evaluator(problem)
    plan = evaluator.make_plan(assignment, Provenance(planner="me", seed=3))
    validate(plan)
    evaluation = evaluator.evaluate(assignment)
    assert plan.prediction is not None
    assert plan.prediction.iteration_time_s == evaluation.iteration_time_s
    assert plan.prediction.bottleneck_s == evaluation.bottleneck_s == evaluator.bottleneck_s(assignment)
    assert plan.prediction.peak_memory_bytes == tuple(evaluation.peak_memory_bytes)
    assert plan.schedule_name == evaluation.schedule_name
    assert plan.provenance.seed == 3


def test_data_parallel_on_many_devices():
    device = DeviceType(name="d", memory_bytes=10**12)
    link = Link(bandwidth=1e10, latency_s=1e-6)
    cluster = Cluster(
        "big", (device,), tuple(Host(name=f"h{i}", devices=("d",) * 8, link=link, network=link) for i in range(128))
    )
    problem = PlanningProblem.build(chain_graph(3, param_bytes=1e6), cluster, num_microbatches=2048)
    evaluation = Evaluator(problem).evaluate(Assignment(np.zeros(3, dtype=np.int64), (tuple(range(1024)),)))
    assert evaluation.peak_memory_bytes.shape == (1024,)
    assert evaluation.iteration_time_s > 2 * 9e-3


def test_bad_calls():
    evaluator = Evaluator(chain_problem())
    with pytest.raises(InputError, match="no schedule is given"):
        evaluator.evaluate(CHAIN, ())
    with pytest.raises(ScheduleError, match="'best' is not known: use one of"):
        evaluator.evaluate(CHAIN, ("best",))
    with pytest.raises(ScheduleError, match=r"devices 0\.\.9"):
        evaluator.evaluate(dataclasses.replace(CHAIN, devices=((0,), (1,), (2,), (9,))))
    with pytest.raises(PlanError, match="back to stage"):
        evaluator.bottleneck_s(dataclasses.replace(CHAIN, stage_of_op=np.array([3, 2, 1, 0])))
