"""Weights on disk."""

import pytest
import torch

from drlpp.agent.networks.policy import PolicyConfig
from drlpp.agent.networks.weights_file import (
    initial_policy,
    load_checkpoint,
    random_policy,
    restore_optimizer,
    save_checkpoint,
)
from drlpp.errors import InputError


def test_round_trip(tmp_path, policy):
    optimizer = torch.optim.Adam(policy.parameters())
    sum(p.square().sum() for p in policy.parameters()).backward()
    optimizer.step()
    save_checkpoint(tmp_path / "w", policy, {"iteration": 7}, optimizer)
    again, record, states = load_checkpoint(tmp_path / "w")
    assert again.config == policy.config
    assert record == {"iteration": 7}
    for name, value in policy.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    other = torch.optim.Adam(again.parameters())
    restore_optimizer(other, states)
    for i, state in optimizer.state_dict()["state"].items():
        assert torch.equal(other.state_dict()["state"][i]["exp_avg"], state["exp_avg"])


def test_without_optimizer_there_is_no_state(tmp_path, policy):
    save_checkpoint(tmp_path / "w", policy, {})
    assert load_checkpoint(tmp_path / "w")[2] == {}


@pytest.mark.parametrize("content", [None, b"", b"not weights"])
def test_missing_and_damaged_files(tmp_path, content):
    if content is not None:
        (tmp_path / "w").write_bytes(content)
    with pytest.raises(InputError, match="cannot read weights"):
        load_checkpoint(tmp_path / "w")


def test_weights_of_networks_of_another_shape(tmp_path, policy):
    score = policy.partitioner.cut_score
    policy.partitioner.cut_score = torch.nn.Linear(score.in_features + 1, 1)
    save_checkpoint(tmp_path / "w", policy, {})
    with pytest.raises(InputError, match="networks of another shape"):
        load_checkpoint(tmp_path / "w")


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone():
    state = torch.random.get_rng_state()
    a, b, c = (random_policy(PolicyConfig(width=8), s) for s in (1, 1, 2))
    assert torch.equal(a.encoder.problem_in.weight, b.encoder.problem_in.weight)
    assert not torch.equal(a.encoder.problem_in.weight, c.encoder.problem_in.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_initial_policy_is_a_copy():
    a, b = initial_policy(0), initial_policy(0)
    with torch.no_grad():
        a.encoder.problem_in.weight.zero_()
    assert b.encoder.problem_in.weight.abs().sum() > 0
