"""Values of measured plans."""

import dataclasses
import json

import numpy as np
import pytest

from agent_problems import small_problem
from drlpp.agent.training.measured_rewards import PENALTY, MeasuredValue
from drlpp.errors import ExecutionError, InputError
from drlpp.plan.assignment import Assignment


def halves(problem, at):
    return Assignment((np.arange(problem.graph.num_ops) >= at).astype(np.int64), ((0,), (1,)))


def test_every_plan_is_measured_once_and_kept(problem, tmp_path):
    seen = []

    def measure(plan):
        seen.append(plan)
        return 2.0 + len(seen)

    value = MeasuredValue(problem, measure, tmp_path / "m.jsonl")
    assert [value(halves(problem, at)) for at in (5, 9, 5)] == [3.0, 4.0, 3.0]
    assert value.num_measured == len(seen) == 2
    again = MeasuredValue(problem, measure, tmp_path / "m.jsonl")
    assert again(halves(problem, 9)) == 4.0
    assert len(seen) == 2
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert all(row["predicted_s"] > 0 and row["reason"] == "" for row in rows)


def test_a_failure_is_a_penalty(problem):
    def measure(plan):
        if len(plan.stages[0].ops) == 9:
            raise ExecutionError("rank 1 died")
        return 7.0

    value = MeasuredValue(problem, measure)
    assert value(halves(problem, 5)) == 7.0
    assert value(halves(problem, 9)) == PENALTY * 7.0
    assert (value.num_measured, value.num_failed) == (1, 1)


def test_what_does_not_fit_the_memory_is_not_started():
    problem = small_problem(0, memory_bytes=10**5)
    value = MeasuredValue(problem, lambda plan: pytest.fail("was started"))
    assert value(halves(problem, 5)) > 0
    assert value.num_measured == value.num_failed == 0


def test_only_iteration_times_are_measured(problem):
    steady = dataclasses.replace(problem, objective="steady-state")
    with pytest.raises(InputError, match="cannot be measured"):
        MeasuredValue(steady, lambda plan: 1.0)


@pytest.mark.parametrize("line", ["{", '{"seconds": 1}', "3"])
def test_a_file_of_something_else(problem, tmp_path, line):
    (tmp_path / "m.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match="line 1 is not a measurement"):
        MeasuredValue(problem, lambda plan: 1.0, tmp_path / "m.jsonl")


def test_a_line_that_was_cut_off_does_not_count(problem, tmp_path):
    (tmp_path / "m.jsonl").write_text('{"plan": "a')
    assert MeasuredValue(problem, lambda plan: 1.0, tmp_path / "m.jsonl").num_measured == 0
