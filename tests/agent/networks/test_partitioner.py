"""The recurrent partitioner."""

import functools

import numpy as np
import pytest
import torch

from drlpp.agent.decisions.device_groups import Slot
from drlpp.agent.decisions.masked_choice import Chooser, masked_log_softmax
from drlpp.agent.decisions.stage_cuts import CUT_OFFSETS, slot_arrays
from drlpp.agent.networks.encoder import GraphEncoder
from drlpp.agent.networks.partitioner import WALK, RecurrentPartitioner, order_values

SLOTS = [
    (Slot(((0, 2),)), Slot(((1, 1),)), Slot(((2, 2),))),
    (Slot(((0, 1), (2, 1))),),
    (Slot(((2, 1),)), Slot(((0, 1),))),
]


@pytest.mark.parametrize("recurrent", [True, False])
def test_replay_gives_the_logits_that_were_sampled_from(view, generator, recurrent):
    encoder, partitioner = GraphEncoder(8, 1), RecurrentPartitioner(8, recurrent)
    torch.nn.init.normal_(partitioner.cut_score.weight)
    for zero in (partitioner.order_prior, partitioner.order_query.weight, partitioner.order_query.bias):
        zero.data.zero_()
    partitioner.order_detail.weight.data.zero_()  # about half of the episodes walk
    partitioner.order_detail.bias.data.fill_(1.0)
    partitioner.order_detail.weight.data[:, WALK] = -9.0
    partitioner.order_score.weight.data.fill_(-3.0 / 16.0)
    seen = []

    class Recording(Chooser):
        def __call__(self, logits, mask, episodes=None):
            seen.append(masked_log_softmax(logits, mask))
            return super().__call__(logits, mask, episodes)

    with torch.no_grad():
        encoding = encoder(view)
        scheduled = torch.zeros(12, 8)
        decisions, _ = partitioner.sample(view, encoding, SLOTS * 4, scheduled, Recording(generator))
        replayed = partitioner.replay(encoding, decisions, scheduled)
    walkers = decisions["order"].choice[:, 0] == WALK
    assert 0 < walkers.sum() < 12
    steps = int(decisions["walk"].valid.any(0).sum())
    assert len(seen) == 1 + steps + 2 + 3
    assert_same = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    ours = {name: masked_log_softmax(replayed[name], d.mask) for name, d in decisions.items()}
    assert_same(ours["order"][:, 0], seen[0])
    made = decisions["walk"].valid.any(0)
    rows = decisions["walk"].valid[walkers][:, made]
    assert_same(ours["walk"][walkers][:, made][rows], torch.stack(seen[1 : 1 + steps], 1)[rows])
    for name, sampled in (("cut", seen[1 + steps : 3 + steps]), ("recompute", seen[3 + steps :])):
        valid = decisions[name].valid
        assert_same(ours[name][valid], torch.stack(sampled, 1)[valid])


def test_variations_keep_the_order_and_cut_near_their_parents(view, generator):
    encoder, partitioner = GraphEncoder(8, 1), RecurrentPartitioner(8)
    with torch.no_grad():
        encoding, scheduled = encoder(view), torch.zeros(3, 8)
        decisions, parents = partitioner.sample(view, encoding, SLOTS, scheduled, Chooser(generator))
        again, varied = partitioner.vary(
            view, encoding, SLOTS, scheduled, decisions, parents, Chooser(generator, temperature=50.0)
        )
    assert np.array_equal(varied.order, parents.order)
    assert torch.equal(again["walk"].choice, decisions["walk"].choice)
    moved = varied.cuts - parents.cuts
    assert np.abs(moved[2, 1]) <= np.abs(CUT_OFFSETS).max()
    assert moved.any()
    assert np.array_equal(varied.cuts[[0, 1, 2], [3, 1, 2]], [view.tables.num_ops] * 3)


def test_a_fixed_order_is_taken_as_it_is(view, generator):
    encoder, partitioner = GraphEncoder(8, 1), RecurrentPartitioner(8)
    with torch.no_grad():
        decisions, p = partitioner.sample(view, encoder(view), SLOTS * 8, torch.zeros(24, 8), Chooser(generator))
    order = decisions["order"].choice[:, 0]
    assert len(set(order.tolist())) > 2
    for b in range(24):
        if order[b] < WALK:
            assert p.order[b].tolist() == view.orders[order[b]].tolist()
            assert not decisions["walk"].valid[b].any()
        else:
            assert decisions["walk"].valid[b].any()


def test_the_order_of_the_best_estimate_is_the_most_probable_at_first(view, generator):
    encoder, partitioner = GraphEncoder(8, 1), RecurrentPartitioner(8)
    with torch.no_grad():
        decisions, _ = partitioner.sample(view, encoder(view), SLOTS, torch.zeros(3, 8), Chooser(generator, 3))
    value = order_values(view, slot_arrays(SLOTS, view.tables, view.problem))
    chosen = decisions["order"].choice[:, 0].numpy()
    assert (value[np.arange(3), chosen] == value.min(axis=1)).all()


def test_every_stage_has_ops(view, generator):
    encoder, partitioner = GraphEncoder(8, 1), RecurrentPartitioner(8)
    with torch.no_grad():
        _, p = partitioner.sample(view, encoder(view), SLOTS, torch.zeros(3, 8), Chooser(generator))
    for b, slots in enumerate(SLOTS):
        cuts = p.cuts[b, : len(slots) + 1]
        assert cuts[0] == 0
        assert cuts[-1] == view.tables.num_ops
        assert (cuts[1:] > cuts[:-1]).all()
