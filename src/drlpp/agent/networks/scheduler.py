"""The pipeline scheduler: gives each slot of the pipeline its devices by attention over device embeddings.

A recurrent state carries the slots made so far. At each decision every choice (how many devices of which class, for
a new slot or added to the open one, or the end) is scored by additive attention (Bahdanau et al., ICLR 2015) between
that state, the embedding of the devices, and the mean embedding of the ops that the slot would be likely to run.
Choices are scored one by one with the same weights, so any number and mix of devices works; a choice of several
classes is embedded as their mean.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from drlpp.agent.decisions.device_groups import NUM_CHOICE_FEATURES, Choices, Slot, SlotState
from drlpp.agent.decisions.masked_choice import Beam, Choose, Decisions, stack_steps
from drlpp.agent.networks.encoder import Encoding, mlp
from drlpp.agent.view.features import ProblemView


class PipelineScheduler(nn.Module):
    """Makes slots.

    Args:
        width: H.
        learned: make decisions; without, slot i has device i and nothing else.
    """

    def __init__(self, width: int, learned: bool = True) -> None:
        super().__init__()
        self.learned = learned
        self.start = nn.Linear(width, width)
        self.chosen = mlp(NUM_CHOICE_FEATURES + width, width, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.content = nn.Linear(width, width)
        self.detail = mlp(NUM_CHOICE_FEATURES, width, width)
        self.score = nn.Linear(width, 1)

    def sample(
        self, view: ProblemView, encoding: Encoding, batch: int, choose: Choose | Beam
    ) -> tuple[Decisions, list[tuple[Slot, ...]]]:
        """Draws the slots of `batch` episodes; the decisions' context has windows ``start``, ``end`` ``[B, T, N]``.

        With a `Beam` as `choose`, all decisions of an episode together differ from those of every other, and there may
        be fewer episodes than `batch`.
        """
        choices = Choices.of(view.tables)
        state = SlotState(view.tables, view.profile, choices, 1 if isinstance(choose, Beam) else batch)
        mix = torch.from_numpy(choices.mix).float()
        hidden, given = self._start(encoding, len(state.done)), None
        record: list[tuple[Tensor, ...]] = []
        parents: list[Tensor] = []
        while not state.done.all():
            start, end = state.windows()
            features = torch.from_numpy(state.features(start, end)).float()
            mask = torch.from_numpy(state.mask() if self.learned else state.one_by_one())
            at_start = torch.from_numpy(view.profile.position(start)).float()
            at_end = torch.from_numpy(view.profile.position(end)).float()
            if given is not None:
                _, hidden = self.gru(given.unsqueeze(1), hidden)
            running = torch.from_numpy(np.flatnonzero(~state.done))
            inputs = (x[running].unsqueeze(1) for x in (hidden[0], features, mask, at_start, at_end))
            logits = features.new_zeros(mask.shape)
            logits[running] = self._logits(encoding, mix, *inputs).squeeze(1)
            valid = (mask.sum(-1) > 1) & torch.from_numpy(~state.done)
            seen: tuple[Tensor, ...] = (features, mask, valid, at_start, at_end)
            if isinstance(choose, Beam):
                rows, choice = choose(logits, mask)
                state.select(rows.numpy())
                hidden = hidden[:, rows].contiguous()
                seen = tuple(x[rows] for x in seen)
                parents.append(rows)
            else:
                choice = choose(logits, mask)
            record.append((*seen, choice))
            given = self._chosen(encoding, seen[0].unsqueeze(1), choice.unsqueeze(1), mix).squeeze(1)
            state.step(choice.numpy())
        if parents:
            record = _lines(record, parents)
        features, mask, valid, at_start, at_end, choice = stack_steps(record)
        context = {"start": at_start, "end": at_end, "mix": mix.expand(len(choice), -1, -1)}
        return Decisions(features, mask, choice, valid, context), state.slots()

    def replay(self, encoding: Encoding, decisions: Decisions) -> tuple[Tensor, Tensor]:
        """Logits ``[B, T, N]`` of recorded decisions, and the final state ``[B, H]``."""
        mix = decisions.context["mix"][0]
        batch = decisions.choice.shape[0]
        hidden = self._start(encoding, batch)
        given = self._chosen(encoding, decisions.features, decisions.choice, mix)
        out, _ = self.gru(given, hidden)
        before = torch.cat([hidden.transpose(0, 1), out[:, :-1]], dim=1)
        seen = (decisions.features, decisions.mask, decisions.context["start"], decisions.context["end"])
        return self._logits(encoding, mix, before, *seen), out[:, -1]

    def _start(self, encoding: Encoding, batch: int) -> Tensor:
        return torch.tanh(self.start(encoding.summary)).expand(1, batch, -1).contiguous()

    def _chosen(self, encoding: Encoding, features: Tensor, choice: Tensor, mix: Tensor) -> Tensor:
        """``[B, T, H]`` embedding of the chosen choices."""
        index = choice[:, :, None, None].expand(-1, -1, 1, features.shape[-1])
        detail = features.gather(2, index).squeeze(2)
        return self.chosen(torch.cat([detail, (mix @ encoding.classes)[choice]], dim=-1))  # type: ignore[no-any-return]

    def _logits(
        self,
        encoding: Encoding,
        mix: Tensor,
        hidden: Tensor,
        features: Tensor,
        mask: Tensor,
        start: Tensor,
        end: Tensor,
    ) -> Tensor:
        """``[B, T, N]``; 0 where a choice is legal nowhere."""
        some = mask.any(dim=0).any(dim=0).nonzero().squeeze(1)
        mixed = (
            self.query(hidden).unsqueeze(2)
            + self.key(mix[some] @ encoding.classes)
            + self._contents(encoding, start[..., some], end[..., some])
            + self.detail(features[..., some, :])
        )
        logits: Tensor = self.score(torch.relu(mixed)).squeeze(-1)
        return logits.new_zeros(mask.shape).index_copy(2, some, logits)

    def _contents(self, encoding: Encoding, start: Tensor, end: Tensor) -> Tensor:
        """``[B, T, N, H]`` of the windows' ops; most choices share their window with many others."""
        pairs = torch.stack([start, end], dim=-1).contiguous().view(torch.int64).squeeze(-1)
        different, which = torch.unique(pairs, return_inverse=True)
        ends = different.unsqueeze(-1).view(torch.float32)
        return self.content(encoding.window_mean(ends[:, 0], ends[:, 1]))[which]  # type: ignore[no-any-return]


def _lines(record: list[tuple[Tensor, ...]], parents: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """The steps of the sequences that are left, where step t's rows go on from rows ``parents[t]`` of step t - 1."""
    rows = torch.arange(len(parents[-1]))
    out = []
    for step, before in zip(reversed(record), reversed(parents), strict=True):
        out.append(tuple(x[rows] for x in step))
        rows = before[rows]
    return out[::-1]
