"""The pipeline scheduler."""

import torch

from drlpp.agent.decisions.masked_choice import Beam, Chooser, Repeat, masked_log_softmax
from drlpp.agent.networks.encoder import GraphEncoder
from drlpp.agent.networks.scheduler import PipelineScheduler


def test_replay_gives_the_logits_that_were_sampled_from(view, generator):
    encoder, scheduler = GraphEncoder(8, 1), PipelineScheduler(8)
    seen = []

    class Recording(Chooser):
        def __call__(self, logits, mask):
            seen.append(masked_log_softmax(logits, mask))
            return super().__call__(logits, mask)

    with torch.no_grad():
        encoding = encoder(view)
        decisions, slots = scheduler.sample(view, encoding, 12, Recording(generator))
        logits, final = scheduler.replay(encoding, decisions)
    replayed = masked_log_softmax(logits, decisions.mask)
    valid = decisions.valid
    torch.testing.assert_close(replayed[valid], torch.stack(seen, 1)[valid], rtol=1e-4, atol=1e-4)
    assert final.shape == (12, 8)
    assert len(slots) == 12


def test_slots_without_replacement_differ_and_keep_what_they_saw(view, generator):
    encoder, scheduler = GraphEncoder(8, 1), PipelineScheduler(8)
    with torch.no_grad():
        encoding = encoder(view)
        decisions, slots = scheduler.sample(view, encoding, 30, Beam(generator, 30, True))
        logits, _ = scheduler.replay(encoding, decisions)
        again, same = scheduler.sample(view, encoding, 30, Repeat(decisions.choice))
    assert len({tuple(c) for c in decisions.choice.tolist()}) == len(slots) == 30
    assert same == slots
    torch.testing.assert_close(again.features, decisions.features)
    best = logits.masked_fill(~decisions.mask, -1e9).argmax(-1)[0]
    assert torch.equal(best[decisions.valid[0]], decisions.choice[0][decisions.valid[0]])


def test_without_learning_slot_i_has_device_i(view, generator):
    encoder, scheduler = GraphEncoder(8, 1), PipelineScheduler(8, learned=False)
    with torch.no_grad():
        decisions, slots = scheduler.sample(view, encoder(view), 3, Chooser(generator))
    one_each = [((k, 1),) for k, size in enumerate(view.tables.size.tolist()) for _ in range(size)]
    assert [slot.parts for slot in slots[0]] == one_each
    assert slots[0] == slots[1] == slots[2]
    assert not decisions.valid.any()
