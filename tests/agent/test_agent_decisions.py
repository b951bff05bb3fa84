"""Masked decisions."""

import math

import torch

from drlpp.agent.decisions import Chooser, Decisions, log_prob_and_entropy


def test_probabilities_and_entropy_of_legal_choices_only():
    logits = torch.tensor([[[0.0, 5.0, 0.0]]])
    mask = torch.tensor([[[True, False, True]]])
    d = Decisions(torch.zeros(1, 1, 3, 0), mask, torch.tensor([[2]]), torch.tensor([[True]]))
    log_p, entropy = log_prob_and_entropy(logits, d)
    assert math.isclose(log_p.item(), math.log(0.5), rel_tol=1e-6)
    assert math.isclose(entropy.item(), math.log(2), rel_tol=1e-6)


def test_a_decision_without_choice_counts_nothing():
    d = Decisions(torch.zeros(1, 1, 2, 0), torch.tensor([[[True, True]]]), torch.tensor([[0]]), torch.tensor([[False]]))
    log_p, entropy = log_prob_and_entropy(torch.zeros(1, 1, 2), d)
    assert log_p.item() == 0
    assert entropy.item() == 0


def test_choices_are_legal_and_follow_the_probabilities():
    choose = Chooser(torch.Generator().manual_seed(0), greedy_first=False)
    logits = torch.tensor([[0.0, 9.0, math.log(3.0)]]).expand(20000, 3)
    mask = torch.tensor([[True, False, True]]).expand(20000, 3)
    drawn = choose(logits, mask)
    assert not (drawn == 1).any()
    assert abs((drawn == 2).float().mean().item() - 0.75) < 0.02


def test_the_first_episode_is_greedy_if_asked():
    choose = Chooser(torch.Generator().manual_seed(0), greedy_first=True)
    logits = torch.tensor([[0.0, 0.1, 0.0]]).expand(4, 3)
    mask = torch.ones(4, 3, dtype=torch.bool)
    assert all(choose(logits, mask)[0] == 1 for _ in range(50))


def test_select_takes_rows_of_everything():
    d = Decisions(
        torch.arange(6.0).reshape(3, 1, 2, 1),
        torch.ones(3, 1, 2, dtype=torch.bool),
        torch.tensor([[0], [1], [0]]),
        torch.ones(3, 1, dtype=torch.bool),
        {"x": torch.arange(3)},
    )
    part = d.select(torch.tensor([2, 0]))
    assert part.features.flatten().tolist() == [4.0, 5.0, 0.0, 1.0]
    assert part.context["x"].tolist() == [2, 0]
