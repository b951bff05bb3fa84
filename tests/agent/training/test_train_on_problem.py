"""Training on one problem in a folder."""

import json

import pytest

from agent_problems import small_problem
from drlpp.agent.networks.weights_file import load_checkpoint
from drlpp.agent.training.fine_tune import TrainConfig
from drlpp.agent.training.train_on_problem import CHECKPOINT, CURVE, MEASUREMENTS, train_in_folder
from drlpp.errors import InputError
from drlpp.plan import load_plan, validate


def config(iterations):
    return TrainConfig(episodes=8, repeats=2, iterations=iterations)


def rows(folder):
    return [json.loads(line) for line in (folder / CURVE).read_text().splitlines()]


def rewards(folder):
    return [row["mean_reward"] for row in rows(folder)]


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_was_never_stopped(problem, tmp_path):
    whole = train_in_folder(tmp_path / "a", problem, config(3), seed=1)
    train_in_folder(tmp_path / "b", problem, config(3), seed=1, on_iteration=lambda row: False)
    assert len(rows(tmp_path / "b")) == 1
    parts = train_in_folder(tmp_path / "b", problem, config(3), seed=1, resume=True)
    assert rewards(tmp_path / "a") == pytest.approx(rewards(tmp_path / "b"), rel=1e-5)
    assert (whole.iterations, whole.best_value_s) == (3, pytest.approx(parts.best_value_s))
    assert [row["iteration"] for row in rows(tmp_path / "b")] == [0, 1, 2]
    assert parts.learning_s > 0
    a, b = (load_checkpoint(tmp_path / x / CHECKPOINT)[0].state_dict() for x in "ab")
    assert all(a[name].allclose(b[name], atol=1e-4) for name in a)


def test_the_best_plan_is_written(problem, tmp_path):
    outcome = train_in_folder(tmp_path / "a", problem, config(1), seed=0)
    plan = load_plan(tmp_path / "a" / "plan.json")
    validate(plan)
    assert plan.prediction.iteration_time_s == pytest.approx(outcome.best_value_s) == pytest.approx(outcome.predicted_s)
    assert plan.provenance.notes == {"reward": "simulated"}


def test_measured_steps_are_what_is_learned_from(problem, tmp_path):
    def measure(plan):  # a machine on which every stage costs a second
        return float(plan.num_stages)

    outcome = train_in_folder(tmp_path / "a", problem, config(2), seed=0, measure=measure)
    lines = (tmp_path / "a" / MEASUREMENTS).read_text().splitlines()
    assert len(lines) == outcome.num_measured > 0
    assert outcome.best_value_s == min(json.loads(line)["seconds"] for line in lines)
    assert load_plan(tmp_path / "a" / "plan.json").num_stages == outcome.best_value_s


def test_what_cannot_be_resumed(problem, tmp_path):
    with pytest.raises(InputError, match="cannot read weights"):
        train_in_folder(tmp_path / "none", problem, config(1), seed=0, resume=True)
    train_in_folder(tmp_path / "a", problem, config(1), seed=0)
    with pytest.raises(InputError, match="made with seed 0, not 1"):
        train_in_folder(tmp_path / "a", problem, config(2), seed=1, resume=True)
    with pytest.raises(InputError, match="made with graph"):
        train_in_folder(tmp_path / "a", small_problem(9), config(2), seed=0, resume=True)
