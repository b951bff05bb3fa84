"""Pre-training."""

import json

import pytest
import torch

from drlpp.agent.networks.policy import PolicyConfig
from drlpp.agent.networks.weights_file import load_checkpoint
from drlpp.agent.training.pretrain import BEST, CHECKPOINT, PretrainConfig, pretrain, told
from drlpp.errors import InputError

TINY = {
    "imitation_iterations": 0,
    "iterations": 3,
    "problems": 2,
    "episodes": 4,
    "max_groups": 12,
    "validate_every": 2,
    "validation_problems": 1,
    "policy": PolicyConfig(width=8, num_layers=1),
}


@pytest.mark.slow
def test_a_resumed_run_makes_the_same_steps(tmp_path):
    config = PretrainConfig(**TINY)
    whole = pretrain(tmp_path / "whole", config)
    pretrain(tmp_path / "parts", config, stop_after_s=0.0)
    assert load_checkpoint(tmp_path / "parts" / CHECKPOINT)[1]["iteration"] == 1
    parts = pretrain(tmp_path / "parts", config, resume=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value)
    rows = [json.loads(line) for line in (tmp_path / "parts" / "curve.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert "validation_best_reward" in rows[0]
    assert "validation_best_reward" not in rows[1]
    assert list((tmp_path / "whole").glob("events.out.*"))


def test_the_record_says_how_the_weights_came_about(tmp_path):
    pretrain(tmp_path, PretrainConfig(**{**TINY, "iterations": 1}), note={"commit": "abc"})
    record = load_checkpoint(tmp_path / CHECKPOINT)[1]
    assert record["commit"] == "abc"
    assert record["config"]["seed"] == 0
    assert record["splits"]["graphs"]["test"] == ["nasnet", "two-tower"]


@pytest.mark.slow
def test_imitation_comes_first_and_goes_on_beside_ppo(tmp_path):
    config = PretrainConfig(**{**TINY, "imitation_iterations": 1, "iterations": 1})
    pretrain(tmp_path, config, stop_after_s=0.0)
    pretrain(tmp_path, config, resume=True)
    first, second = (json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines())
    assert "imitation_loss" in first
    assert "kl" not in first
    assert {"imitation_loss", "kl"} <= set(second)


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(InputError, match="cannot read weights"):
        pretrain(tmp_path, PretrainConfig(**TINY), resume=True)


@pytest.mark.slow
def test_a_run_can_start_from_weights(tmp_path):
    config = PretrainConfig(**{**TINY, "iterations": 1})
    pretrain(tmp_path / "first", config)
    weights = tmp_path / "first" / CHECKPOINT
    pretrain(tmp_path / "second", PretrainConfig(**{**TINY, "iterations": 1, "seed": 1}), start_from=weights)
    first, second = (load_checkpoint(tmp_path / name / CHECKPOINT) for name in ("first", "second"))
    assert second[1]["start_from"] == str(weights)
    for name, value in first[0].state_dict().items():
        torch.testing.assert_close(second[0].state_dict()[name], value, atol=0.01, rtol=0.0)


def test_weights_of_other_networks_are_no_start(tmp_path):
    pretrain(tmp_path, PretrainConfig(**{**TINY, "iterations": 1}))
    other = PretrainConfig(**{**TINY, "policy": PolicyConfig(width=16, num_layers=1)})
    with pytest.raises(InputError, match="other networks"):
        pretrain(tmp_path / "second", other, start_from=tmp_path / CHECKPOINT)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"episodes": 1}, "episodes is 1"),
        ({"problems": 0}, "at least 1"),
        ({"imitation_iterations": -1}, "imitation_iterations is -1"),
        ({"policy": PolicyConfig(scheduler=False)}, "this policy has no scheduler to imitate"),
        ({"max_groups": 3}, "max_groups is 3"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(InputError, match=message):
        PretrainConfig(**wrong)


def test_the_weights_that_validate_best_are_the_result(tmp_path):
    policy = pretrain(tmp_path, PretrainConfig(**{**TINY, "validate_every": 1}))
    best, record, _ = load_checkpoint(tmp_path / BEST)
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    scores = [row["validation_best_reward"] for row in rows]
    assert record["iteration"] == 1 + scores.index(max(scores))
    for name, value in policy.state_dict().items():
        torch.testing.assert_close(best.state_dict()[name], value)


def test_an_iteration_is_told_in_words():
    row = {"seconds": 12.3456789, "mean_reward": -0.123456789, "kl": 0.00123456}
    assert told(row, 1, 10, 240.0) == "iteration 2 of 10, 4 min left: mean reward -0.123, kl 0.00123"
