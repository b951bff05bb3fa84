"""A batch gives what single calls give, to the last bit, whatever the number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from drlpp.errors import PlanError, ScheduleError
from drlpp.plan import Assignment, Objective
from drlpp.sim import Evaluator
from random_problems import random_assignment, random_problem


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_batch_equals_single_calls(num_threads):
    for seed in range(12):
        problem, first = random_problem(seed)
        rng = np.random.default_rng(seed)
        more = [random_assignment(rng, problem.graph, problem.cluster.num_devices) for _ in range(6)]
        batch = [first, *more, first]
        together = Evaluator(problem, num_threads).evaluate_many(batch)
        single = Evaluator(problem)
        assert len(together) == len(batch)
        for got, assignment in zip(together, batch, strict=True):
            alone = single.evaluate(assignment)
            assert (got.iteration_time_s, got.bottleneck_s) == (alone.iteration_time_s, alone.bottleneck_s)
            assert got.over_memory_bytes == alone.over_memory_bytes
            assert got.schedule_name == alone.schedule_name
            np.testing.assert_array_equal(got.peak_memory_bytes, alone.peak_memory_bytes)
        for objective in Objective:
            scores = [each.score(objective) for each in together]
            assert together.scores(objective).tolist() == pytest.approx(scores, rel=1e-15)
        assert [each.iteration_time_s for each in together[1:3]] == together.iteration_time_s[1:3].tolist()


def test_an_empty_batch_is_empty():
    problem, _ = random_problem(0)
    assert list(Evaluator(problem).evaluate_many([])) == []


def test_bad_assignments_in_a_batch_are_errors():
    problem, good = random_problem(3)
    zeros = np.zeros(problem.graph.num_ops, dtype=np.int64)
    with pytest.raises(PlanError, match="stage 1 has no ops"):
        Evaluator(problem, 2).evaluate_many([good, Assignment(zeros, ((0,), (0,)))])
    with pytest.raises(ScheduleError, match="none of the schedules zbv applies to this placement: add 1f1b"):
        Evaluator(problem).evaluate_many([Assignment(zeros, ((0,),))], ("zbv",))


def test_callers_on_several_threads_get_what_they_asked_for():
    problem, first = random_problem(7)
    rng = np.random.default_rng(7)
    wanted = [first, *(random_assignment(rng, problem.graph, problem.cluster.num_devices) for _ in range(40))]
    evaluator = Evaluator(problem, 2)
    expected = [evaluator.evaluate(assignment).iteration_time_s for assignment in wanted]
    with ThreadPoolExecutor(4) as pool:
        assert [e.iteration_time_s for e in pool.map(evaluator.evaluate, wanted)] == expected
