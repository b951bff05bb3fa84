"""The warm start: the scheduler learns to draw the best of many slots."""

import pytest
import torch

from drlpp.agent.decisions import log_prob_and_entropy
from drlpp.agent.imitation import ImitationConfig, anchor_assignments, draw_elite, imitation_loss
from drlpp.agent.rollout import Rewarder
from drlpp.agent.slots import Slot
from drlpp.errors import InputError
from drlpp.graph.stages import check_partition
from drlpp.sim import Evaluator

CONFIG = ImitationConfig(draws=40, keep=5)


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


def test_the_best_slots_come_first_and_weigh_most(view, policy, generator):
    judge = rewarder(view)
    elite = draw_elite(policy, view, judge, CONFIG, generator)
    assert elite.weights.sum().item() == pytest.approx(1.0)
    assert (elite.weights[:-1] >= elite.weights[1:]).all()
    assert elite.schedule.choice.shape[0] == len(elite.weights) == 5


def test_rows_of_different_lengths_keep_their_probabilities(view, policy, generator):
    """A padded row has the log-probability that it has alone."""
    elite = draw_elite(policy, view, rewarder(view), CONFIG, generator)
    encoding = policy.encoder(view)
    together = log_prob_and_entropy(policy.scheduler.replay(encoding, elite.schedule)[0], elite.schedule)[0].sum(1)
    for b in range(len(elite.weights)):
        row = elite.schedule.select(torch.tensor([b]))
        alone = log_prob_and_entropy(policy.scheduler.replay(encoding, row)[0], row)[0].sum()
        torch.testing.assert_close(alone, together[b], rtol=1e-4, atol=1e-4)


def test_the_best_slots_become_more_probable(view, policy, generator):
    elite = draw_elite(policy, view, rewarder(view), CONFIG, generator)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, metrics = imitation_loss(policy, elite, CONFIG)
        loss.backward()
        optimizer.step()
        losses.append(metrics["imitation_loss"])
    assert losses[-1] < 0.6 * losses[0]


def test_wrong_settings():
    with pytest.raises(InputError, match="keep 0"):
        ImitationConfig(keep=0)
