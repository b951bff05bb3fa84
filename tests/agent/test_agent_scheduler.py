"""The pipeline scheduler."""

import torch

from drlpp.agent.decisions import Chooser, masked_log_softmax
from drlpp.agent.encoder import GraphEncoder
from drlpp.agent.scheduler import PipelineScheduler


def test_replay_gives_the_logits_that_were_sampled_from(view, generator):
    encoder, scheduler = GraphEncoder(8, 1), PipelineScheduler(8)
    seen = []

    class Recording(Chooser):
        def __call__(self, logits, mask):
            seen.append(masked_log_softmax(logits, mask))
            return super().__call__(logits, mask)

    with torch.no_grad():
        encoding = encoder(view)
        decisions, slots = scheduler.sample(view, encoding, 12, Recording(generator, False))
        logits, final = scheduler.replay(encoding, decisions)
    replayed = masked_log_softmax(logits, decisions.mask)
    valid = decisions.valid
    torch.testing.assert_close(replayed[valid], torch.stack(seen, 1)[valid], rtol=1e-4, atol=1e-4)
    assert final.shape == (12, 8)
    assert len(slots) == 12
