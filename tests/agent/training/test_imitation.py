"""The warm start: the scheduler learns to draw the best of many slots."""

import dataclasses

import numpy as np
import pytest
import torch

from drlpp.agent.decisions.device_groups import Slot
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.imitation import ImitationConfig, anchor_assignments, draw_elite, imitation_loss
from drlpp.errors import InputError
from drlpp.graph.stages import check_partition
from drlpp.sim import Evaluator

CONFIG = ImitationConfig(draws=40, rounds=2, changes=10, keep=5)


def rewarder(view):
    evaluator = Evaluator(view.problem)
    return Rewarder(lambda a: evaluator.evaluate(a).score(view.problem.objective), 1.0)


def test_slots_cut_by_the_dynamic_programme_are_legal_assignments(view):
    slots = [(Slot(((0, 2),)), Slot(((1, 1),))), (Slot(((0, 1), (1, 1), (2, 2))),)]
    first, second = anchor_assignments(view, slots)
    assert first.devices == ((0, 1), (2,))
    assert second.devices == ((0, 2, 3, 4),)
    for a in (first, second):
        check_partition(view.problem.graph, a.stage_of_op, a.num_stages)


def draw(policy, view, judge, generator):
    return draw_elite(policy, view, judge, CONFIG, generator, np.random.default_rng(0))


def test_the_best_slots_weigh_most(view, policy, generator):
    judge = rewarder(view)
    elite = draw(policy, view, judge, generator)
    assert elite.weights.sum().item() == pytest.approx(1.0)
    assert elite.schedule.choice.shape[0] == 5
    assert elite.weights.max() > 1 / 5


def test_changed_slots_are_better_than_those_drawn(view, policy, generator):
    """More rounds never find worse."""
    found = []
    for rounds in (0, 6):
        judge = rewarder(view)
        config = dataclasses.replace(CONFIG, rounds=rounds)
        draw_elite(policy, view, judge, config, torch.Generator().manual_seed(0), np.random.default_rng(0))
        found.append(judge.best[0])
    assert found[1] <= found[0]


def test_the_best_slots_become_more_probable(view, policy, generator):
    elite = draw(policy, view, rewarder(view), generator)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, metrics = imitation_loss(policy, elite, CONFIG)
        loss.backward()
        optimizer.step()
        losses.append(metrics["imitation_loss"])
    assert losses[-1] < 0.6 * losses[0]


def test_the_partitioner_is_not_touched(view, policy, generator):
    loss, _ = imitation_loss(policy, draw(policy, view, rewarder(view), generator), CONFIG)
    loss.backward()
    assert all(p.grad is None for p in policy.partitioner.parameters())
    assert all(p.grad is not None for p in policy.scheduler.parameters())


def test_wrong_settings():
    with pytest.raises(InputError, match="keep 0"):
        ImitationConfig(keep=0)
