"""PPO: closed forms, and learning in environments with a known optimum."""

import itertools

import pytest
import torch

from drlpp.agent.networks.partitioner import WALK
from drlpp.agent.networks.policy import PolicyConfig
from drlpp.agent.networks.weights_file import random_policy
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.ppo import Batch, Ppo, PpoConfig, advantages, clipped_objective, expected_raise
from drlpp.agent.view.features import problem_view
from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.problem import PlanningProblem


def test_the_clipped_objective_by_hand():
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1])
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    # min(r A, clip(r, .8, 1.2) A): gains are cut at 1.2 A, losses are not cut
    expected = torch.tensor([1.2, 0.5, -1.5, -0.8, 2.2])
    torch.testing.assert_close(clipped_objective(ratio.log(), advantage, 0.2), expected)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_expected_raise_is_the_mean_over_all_subsets(k):
    rewards = [0.3, -1.0, 2.0, 0.3, 0.9, -0.2]
    ours = expected_raise(torch.tensor(rewards), k)
    for i, r in enumerate(rewards):
        others = rewards[:i] + rewards[i + 1 :]
        raises = [max(0.0, r - max(s)) for s in itertools.combinations(others, k - 1)]
        assert ours[i].item() == pytest.approx(sum(raises) / len(raises), abs=1e-6)


def test_the_best_of_one_is_the_reward_itself():
    rewards = torch.tensor([1.0, 2.0])
    assert torch.equal(expected_raise(rewards, 1), rewards)


def test_partitions_are_compared_with_those_for_the_same_slots():
    rewards = torch.tensor([0.0, 0.02, 5.0, 5.04])
    slot, partition = advantages(rewards, 2, PpoConfig(best_of=1))
    assert slot[0] == slot[1] < slot[2] == slot[3]
    assert partition[1] == -partition[0]
    assert partition[3] == pytest.approx(2 * partition[1].item())


def test_equal_rewards_give_no_advantage():
    """The trap: dividing by the deviation of nearly equal rewards would blow noise up."""
    slot, partition = advantages(torch.full((8,), 0.7) + 1e-6 * torch.randn(8), 2, PpoConfig())
    assert slot.abs().max() < 0.01
    assert partition.abs().max() < 0.01


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"clip": 1.5}, "clip 1.5"),
        ({"best_of": 0}, "best_of is 0"),
        ({"entropy": {"schedule": 1.0}}, "give one for each of schedule, order, walk, cut, recompute"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(InputError, match=message):
        PpoConfig(**wrong)


def learn(policy, view, value, iterations, generator):
    rewarder = Rewarder(value, 1.0)
    learner = Ppo(policy, PpoConfig(learning_rate=3e-3, best_of=1))
    for _ in range(iterations):
        rollout = policy.sample([view], 32, generator, repeats=2)[0]
        rewards = rewarder.rewards(rewarder.values(rollout))
        metrics = learner.update([Batch(rollout, rewards)], generator)
    return policy.sample([view], 64, generator)[0], metrics


@pytest.mark.slow
def test_a_bandit_over_the_number_of_stages_is_solved(policy, view, generator):
    """Reward 0 for exactly three stages, less for each stage more or fewer."""
    before = policy.sample([view], 64, generator)[0]
    after, metrics = learn(policy, view, lambda a: 2.0 ** abs(a.num_stages - 3), 80, generator)
    hits = [sum(len(s) == 3 for s in r.slots) / 64 for r in (before, after)]
    assert hits[0] < 0.5
    assert hits[1] > 0.9
    assert set(metrics) >= {"policy_loss", "entropy", "kl", "clip_fraction", "grad_norm", "entropy_schedule"}


@pytest.mark.slow
def test_the_order_of_the_walk_is_learned(policy, view, generator):
    """Reward for putting the ops with an even index early: only the walk decides that, where every episode walks."""
    policy.partitioner.order_detail.bias.data.fill_(1.0)
    policy.partitioner.order_detail.weight.data[:, WALK] = -9.0
    policy.partitioner.order_score.weight.data.fill_(-2.0)
    learner = Ppo(policy, PpoConfig(learning_rate=3e-3))
    means = []
    for _ in range(20):
        rollout = policy.sample([view], 32, generator, repeats=4)[0]
        position = torch.from_numpy(rollout.partitions.order).argsort(1).float()
        rewards = -position[:, ::2].mean(1) / position.shape[1]
        means.append(rewards.mean().item())
        assert (rollout.decisions["order"].choice == WALK).float().mean() > 0.9
        learner.update([Batch(rollout, rewards)], generator)
    assert sum(means[-3:]) / 3 > sum(means[:3]) / 3 + 0.01


def test_the_penalty_keeps_the_policy_near_the_reference(view, generator):
    moved = {}
    for kl in (0.0, 100.0):
        policy = random_policy(PolicyConfig(width=8, num_layers=1), 0)
        rollout = policy.sample([view], 32, torch.Generator().manual_seed(0))[0]
        rewards = torch.tensor([float(len(s)) for s in rollout.slots])
        learner = Ppo(policy, PpoConfig(kl=kl, epochs=10, clip=0.9, learning_rate=3e-3))
        learner.update([Batch(rollout, rewards, rollout.log_probs)], generator)
        now = policy.evaluate(view, rollout.decisions).log_probs
        moved[kl] = (now - rollout.log_probs).abs().mean().item()
    assert moved[100.0] < 0.5 * moved[0.0]


def test_nothing_is_learned_where_nothing_is_decided(generator):
    device = DeviceType(name="device", memory_bytes=10**9)
    cluster = Cluster("one", (device,), (Host(name="host", devices=("device",), link=Link(bandwidth=1e9)),))
    view = problem_view(PlanningProblem.build(chain_graph(1), cluster, num_microbatches=4))
    policy = random_policy(PolicyConfig(width=8, num_layers=1, scheduler=False), 0)
    before = [p.detach().clone() for p in policy.parameters()]
    rollout = policy.sample([view], 8, generator)[0]
    assert not any(d.valid.any() for d in rollout.decisions.values())
    Ppo(policy, PpoConfig()).update([Batch(rollout, torch.zeros(8))], generator)
    for parameter, old in zip(policy.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
