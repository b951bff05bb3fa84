"""The policy as a whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.agent.networks.policy import PARTS, PolicyConfig, Sieve
from drlpp.agent.networks.weights_file import random_policy
from drlpp.agent.training.corpus import draw_problem
from drlpp.agent.view.coarse import coarse_problem
from drlpp.agent.view.features import problem_view
from drlpp.errors import InputError
from drlpp.graph.stages import check_partition


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_sample_is_a_legal_assignment(seed):
    rng = np.random.default_rng(seed)
    problem = draw_problem(rng, rng.choice(["train", "validation", "test"]))
    coarse = coarse_problem(problem, 30)
    policy = random_policy(PolicyConfig(width=8, num_layers=1), seed)
    generator = torch.Generator().manual_seed(seed)
    rollout = policy.sample([problem_view(coarse.problem)], 6, generator, repeats=2)[0]
    for assignment in rollout.assignments():
        whole = coarse.expand(assignment)
        check_partition(problem.graph, whole.stage_of_op, whole.num_stages)
        used = [d for group in whole.devices for d in group]
        assert len(set(used)) == len(used)
        assert max(used) < problem.cluster.num_devices


def test_evaluate_gives_the_log_probabilities_of_the_samples(view, policy, generator):
    rollout = policy.sample([view], 10, generator)[0]
    now = policy.evaluate(view, rollout.decisions)
    torch.testing.assert_close(now.log_probs, rollout.log_probs, rtol=1e-4, atol=1e-4)
    assert now.log_probs.shape == (10, sum(rollout.part_sizes))
    assert (now.entropies >= 0).all()


def test_every_weight_gets_a_gradient(view, policy, generator):
    torch.nn.init.normal_(policy.partitioner.cut_score.weight)
    torch.nn.init.normal_(policy.partitioner.order_score.weight)
    rollout = policy.sample([view], 64, generator)[0]
    assert rollout.decisions["walk"].valid.any()
    policy.evaluate(view, rollout.decisions).log_probs.sum().backward()
    without = [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all("memory_score" in name or name.endswith("score.bias") for name in without), without


def test_the_same_seed_draws_the_same(view, policy):
    def draw(seed):
        rollout = policy.sample([view], 8, torch.Generator().manual_seed(seed))[0]
        return [(a.stage_of_op.tolist(), a.devices, a.settings) for a in rollout.assignments()]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_repeats_share_their_slots(view, policy, generator):
    rollout = policy.sample([view], 12, generator, repeats=4)[0]
    assert rollout.num_episodes == 12
    for b in range(0, 12, 4):
        assert len({rollout.slots[b + r] for r in range(4)}) == 1


def test_the_greedy_episode_takes_the_most_probable_choices(view, policy, generator):
    rollout = policy.sample([view], 5, generator, greedy_first=True)[0]
    log_p = dict(zip(PARTS, rollout.log_probs[0].split(rollout.part_sizes), strict=True))
    decisions = rollout.decisions["schedule"]
    logits, _ = policy.scheduler.replay(policy.encoder(view), decisions)
    best = logits.masked_fill(~decisions.mask, -1e9).argmax(-1)[0]
    assert torch.equal(best[decisions.valid[0]], decisions.choice[0][decisions.valid[0]])
    assert log_p["schedule"].sum() <= 0


def test_a_batch_of_problems(policy, generator):
    views = [problem_view(draw_problem(np.random.default_rng(i), "train")) for i in range(2)]
    assert [r.view for r in policy.sample(views, 4, generator)] == views


def test_no_width_is_an_error():
    with pytest.raises(InputError, match="width 0"):
        PolicyConfig(width=0)


def test_distinct_slots_get_their_most_probable_partition(view, policy, generator):
    rollout = policy.sample([view], 40, generator, greedy_first=True, sieve=Sieve())[0]
    assert rollout.num_episodes == 40
    assert len({tuple(c) for c in rollout.decisions["schedule"].choice.tolist()}) == 40
    order = rollout.decisions["order"]
    encoding = policy.encoder(view)
    _, scheduled = policy.scheduler.replay(encoding, rollout.decisions["schedule"])
    logits = policy.partitioner.replay(encoding, rollout.decisions, scheduled)["order"]
    assert torch.equal(logits.masked_fill(~order.mask, -1e9).argmax(-1), order.choice)


def test_few_slots_get_several_partitions(view, generator):
    policy = random_policy(PolicyConfig(width=8, num_layers=1, scheduler=False), 0)
    rollout = policy.sample([view], 12, generator, sieve=Sieve())[0]
    assert len(set(rollout.slots)) == 1
    assert len({tuple(a.stage_of_op.tolist()) for a in rollout.assignments()}) > 1


def test_variations_have_their_log_probabilities(view, policy, generator):
    rollout = policy.sample([view], 6, generator, sieve=Sieve())[0]
    varied = policy.vary(rollout, [2, 2, 0], generator, 4.0)
    assert [varied.slots[i] for i in range(3)] == [rollout.slots[i] for i in (2, 2, 0)]
    now = policy.evaluate(view, varied.decisions)
    torch.testing.assert_close(now.log_probs, varied.log_probs, rtol=1e-4, atol=1e-4)


def test_episodes_go_on_from_the_first_slots_of_others(view, policy, generator):
    rollout = policy.sample([view], 4, generator)[0]
    other = policy.go_on(rollout, [0, 0, 1, 1, 2, 3], generator)
    assert other.num_episodes == 6
    torch.testing.assert_close(policy.evaluate(view, other.decisions).log_probs, other.log_probs)
    for parent, slots in zip([0, 0, 1, 1, 2, 3], other.slots, strict=True):
        assert slots
        shared = [a == b for a, b in zip(rollout.slots[parent], slots, strict=False)]
        assert shared == sorted(shared, reverse=True)
    assert len(set(other.slots)) > 1
