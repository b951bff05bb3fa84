"""Masked decisions."""

import math

import pytest
import torch

from drlpp.agent.decisions.masked_choice import Beam, Chooser, Decisions, GoOn, Repeat, log_prob_and_entropy


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
    choose = Chooser(torch.Generator().manual_seed(0), greedy=0)
    logits = torch.tensor([[0.0, 9.0, math.log(3.0)]]).expand(20000, 3)
    mask = torch.tensor([[True, False, True]]).expand(20000, 3)
    drawn = choose(logits, mask)
    assert not (drawn == 1).any()
    assert abs((drawn == 2).float().mean().item() - 0.75) < 0.02


def test_the_first_episode_is_greedy_if_asked():
    choose = Chooser(torch.Generator().manual_seed(0), greedy=1)
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


LOGITS = torch.tensor([0.0, 1.0, -1.0])
"""Of two decisions one after the other; after a first choice 2 only choice 0 is legal."""


def two_decisions(beam):
    mask = torch.ones(1, 3, dtype=torch.bool)
    rows, first = beam(LOGITS.unsqueeze(0), mask)
    assert (rows == 0).all()
    mask = torch.ones(len(first), 3, dtype=torch.bool)
    mask[first == 2, 1:] = False
    rows, second = beam(LOGITS.expand(len(first), 3), mask)
    return list(zip(first[rows].tolist(), second.tolist(), strict=True))


def test_sequences_without_replacement_are_distinct_and_legal():
    drawn = two_decisions(Beam(torch.Generator().manual_seed(0), 100, False))
    assert sorted(drawn) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]


@pytest.mark.slow
def test_the_first_of_a_sample_without_replacement_follows_the_probabilities():
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(LOGITS, 0)
    drawn = [two_decisions(Beam(generator, 3, False))[0] for _ in range(4000)]
    for sequence, expected in {(1, 1): p[1] * p[1], (0, 2): p[0] * p[2], (2, 0): p[2]}.items():
        assert abs(drawn.count(sequence) / 4000 - expected.item()) < 0.03


def test_a_second_draw_leaves_out_the_first():
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(LOGITS, 0)
    pairs = [two_decisions(Beam(generator, 2, False)) for _ in range(4000)]
    after = [b for a, b in pairs if a == (1, 1)]
    expected = (p[2] / (1 - p[1] * p[1])).item()
    assert abs(after.count((2, 0)) / len(after) - expected) < 0.04


def test_the_greedy_sequence_comes_first_if_asked():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        drawn = two_decisions(Beam(generator, 4, True))
        assert drawn[0] == (1, 1)
        assert len(set(drawn)) == 4


def test_decisions_are_made_again():
    again = Repeat(torch.tensor([[1, 2], [0, 1]]))
    logits, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    assert [again(logits, mask).tolist() for _ in range(3)] == [[1, 0], [2, 1], [0, 0]]


def test_the_first_decisions_are_made_again_and_the_others_anew():
    logits, mask = torch.tensor([[0.0, 0.0, 50.0]] * 3), torch.ones(3, 3, dtype=torch.bool)
    again = GoOn(torch.tensor([[1, 1], [1, 0], [0, 1]]), torch.tensor([2, 1, 0]), Chooser(torch.Generator(), 0))
    assert again(logits, mask).tolist() == [1, 1, 2]
    assert again(logits, mask).tolist() == [1, 2, 2]
    assert again(logits, mask).tolist() == [2, 2, 2]


def test_greedy_episodes_are_known_by_their_number():
    choose = Chooser(torch.Generator().manual_seed(0), greedy=2)
    logits = torch.tensor([[0.0, 0.1, 0.0]]).expand(2, 3)
    mask = torch.ones(2, 3, dtype=torch.bool)
    drawn = torch.stack([choose(logits, mask, torch.tensor([1, 5])) for _ in range(60)])
    assert (drawn[:, 0] == 1).all()
    assert (drawn[:, 1] != 1).any()
