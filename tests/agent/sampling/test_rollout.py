"""Rewards."""

import math

import numpy as np
import torch

from drlpp.agent.sampling.rollout import Rewarder
from drlpp.plan.assignment import Assignment
from drlpp.plan.settings import AGAIN, PLAIN


def test_the_reward_is_the_negative_log_ratio_to_the_reference():
    rewarder = Rewarder(lambda a: 1.0, 2.0)
    torch.testing.assert_close(
        rewarder.rewards(np.array([2.0, 4.0, 1.0])), torch.tensor([0.0, -math.log(2), math.log(2)])
    )


def test_equal_assignments_are_valued_once_and_the_best_is_kept():
    calls = []

    def value(assignment):
        calls.append(assignment)
        return float(assignment.num_stages)

    rewarder = Rewarder(value, 1.0)
    two = Assignment(np.array([0, 1]), ((0,), (1,)))
    one = Assignment(np.array([0, 0]), ((0,),))
    assert [rewarder.value_of(a) for a in (two, one, two)] == [2.0, 1.0, 2.0]
    assert rewarder.num_evaluations == len(calls) == 2
    assert rewarder.best == (1.0, one)


def test_the_key_tells_devices_labels_and_recomputation_apart():
    labels = np.array([0, 1])
    keys = {
        Assignment(labels, ((0,), (1,))).key,
        Assignment(labels, ((1,), (0,))).key,
        Assignment(labels, ((0,), (1,)), (AGAIN, PLAIN)).key,
        Assignment(np.array([0, 0]), ((0,),)).key,
    }
    assert len(keys) == 4


def test_values_of_a_rollout(view, policy, generator):
    rollout = policy.sample([view], 6, generator)[0]
    values = Rewarder(lambda a: float(a.num_stages), 1.0).values(rollout)
    assert values.tolist() == [len(s) for s in rollout.slots]
