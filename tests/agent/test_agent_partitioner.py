"""The recurrent partitioner."""

import pytest
import torch

from drlpp.agent.decisions import Chooser, masked_log_softmax
from drlpp.agent.encoder import GraphEncoder
from drlpp.agent.partitioner import RecurrentPartitioner
from drlpp.agent.slots import Slot

SLOTS = [
    (Slot(((0, 2),)), Slot(((1, 1),)), Slot(((2, 2),))),
    (Slot(((0, 1), (2, 1))),),
    (Slot(((2, 1),)), Slot(((0, 1),))),
]


@pytest.mark.parametrize("recurrent", [True, False])
def test_replay_gives_the_logits_that_were_sampled_from(view, generator, recurrent):
    encoder, partitioner = GraphEncoder(8, 1), RecurrentPartitioner(8, recurrent)
    torch.nn.init.normal_(partitioner.cut_score.weight)
    seen = []

    class Recording(Chooser):
        def __call__(self, logits, mask):
            seen.append(masked_log_softmax(logits, mask))
            return super().__call__(logits, mask)

    with torch.no_grad():
        encoding = encoder(view)
        scheduled = torch.zeros(3, 8)
        decisions, _ = partitioner.sample(view, encoding, SLOTS, scheduled, Recording(generator, False))
        replayed = partitioner.replay(encoding, decisions, scheduled)
    order_steps = int(decisions["order"].mask[:, :, 1].any(0).sum())
    sampled = {
        "order": torch.stack(seen[:order_steps], 1),
        "cut": torch.stack(seen[order_steps : order_steps + 2], 1),
        "recompute": torch.stack(seen[order_steps + 2 :], 1),
    }
    for name, d in decisions.items():
        ours = masked_log_softmax(replayed[name], d.mask)
        if name == "order":
            ours, valid = ours[:, d.mask[:, :, 1].any(0)], d.valid[:, d.mask[:, :, 1].any(0)]
        else:
            valid = d.valid
        torch.testing.assert_close(ours[valid], sampled[name][valid], rtol=1e-4, atol=1e-4)


def test_every_stage_has_ops(view, generator):
    encoder, partitioner = GraphEncoder(8, 1), RecurrentPartitioner(8)
    with torch.no_grad():
        _, p = partitioner.sample(view, encoder(view), SLOTS, torch.zeros(3, 8), Chooser(generator, False))
    for b, slots in enumerate(SLOTS):
        cuts = p.cuts[b, : len(slots) + 1]
        assert cuts[0] == 0
        assert cuts[-1] == view.tables.num_ops
        assert (cuts[1:] > cuts[:-1]).all()
