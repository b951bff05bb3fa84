"""The recurrent partitioner: walks the ops in a topological order of its own choice and cuts the walk into stages.

One decision per op: which of the ready ops comes next (see `walk`; the mask makes every walk a topological order). A
GRU carries what was walked; features carry the fill of the slot that the walk has reached, the bytes that are live
(the cut), and the devices to come. Then one decision per boundary: where to cut, near the anchor that the dynamic
programme gives for this walk and these slots (see `cuts`), and one per stage: whether to recompute activations.
Boundaries and recomputation start from a prior (the estimated excess cost and the memory) that learning corrects;
every other episode leans to the graph's own order, so that samples hold both faithful and free walks.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from drlpp.agent.cuts import (
    CUT_OFFSETS,
    NUM_CUT_FEATURES,
    NUM_MEMORY_FEATURES,
    Prefixes,
    SlotArrays,
    cut_choices,
    make_cuts,
    prefixes,
    slot_arrays,
    solve_cuts,
    stage_memory,
)
from drlpp.agent.decisions import Chooser, Decisions
from drlpp.agent.encoder import Encoding, mlp
from drlpp.agent.features import ProblemView
from drlpp.agent.slots import Slot
from drlpp.agent.tables import Floats, Ints, Tables
from drlpp.agent.walk import NUM_CANDIDATE_FEATURES, NUM_STATE_FEATURES, WalkState
from drlpp.problem import PlanningProblem

_FIRST_READY, _LEAN = 4, 3.0
_EXCESS, _CUT_PRIOR, _MEMORY_PRIOR = 5, 12.0, 16.0
_SURELY_FITS, _SURELY_NOT = 0.6, 1.3
_STEADY_STATE_PASSES = 1000.0


def sum_passes(problem: PlanningProblem) -> float:
    """The weight of the largest cost against the sum of times that suits a problem's objective (see `cuts`)."""
    steady = problem.objective == "steady-state"
    return _STEADY_STATE_PASSES if steady else float(problem.training.num_microbatches - 1)


@dataclasses.dataclass(frozen=True)
class Partitions:
    """The partitions of B episodes.

    Attributes:
        order: ``[B, n]`` the walk.
        cuts: ``[B, K + 1]`` stage s is ``order[cuts[s] : cuts[s + 1]]``.
        recompute: ``[B, K]`` 1 where a stage recomputes.
    """

    order: Ints
    cuts: Ints
    recompute: Ints


class RecurrentPartitioner(nn.Module):
    """Makes partitions for given slots.

    Args:
        width: H.
        recurrent: carry what was walked; without, each decision sees only the features of its moment.
    """

    def __init__(self, width: int, recurrent: bool = True) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.start = nn.Linear(2 * width, width)
        self.state_in = nn.Linear(NUM_STATE_FEATURES, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.query = nn.Linear(width, width)
        self.state_query = nn.Linear(NUM_STATE_FEATURES, width)
        self.key = nn.Linear(width, width)
        self.detail = mlp(NUM_CANDIDATE_FEATURES, width, width)
        self.score = nn.Linear(width, 1)
        self.cut_query = nn.Linear(width, width)
        self.cut_slots = nn.Linear(2 * width, width)
        self.cut_detail = mlp(NUM_CUT_FEATURES, width, width)
        self.cut_score = nn.Linear(width, 1)
        self.cut_prior = nn.Parameter(torch.tensor(_CUT_PRIOR))
        excess = nn.Linear(16, 1)
        self.memory_score = nn.Sequential(nn.Linear(NUM_MEMORY_FEATURES, 16), nn.ReLU(), excess)
        nn.init.zeros_(self.cut_score.weight)
        nn.init.zeros_(excess.weight)

    def sample(
        self, view: ProblemView, encoding: Encoding, slots: list[tuple[Slot, ...]], scheduled: Tensor, choose: Chooser
    ) -> tuple[dict[str, Decisions], Partitions]:
        """Draws the partitions of B episodes.

        Args:
            slots: of each episode.
            scheduled: ``[B, H]`` the scheduler's final state.

        Returns:
            Decisions under ``order`` ``[B, n]``, ``cut`` ``[B, K - 1]`` and ``recompute`` ``[B, K]``; the partitions.
        """
        t = view.tables
        arrays = slot_arrays(slots, t, view.problem.cluster)
        walked, outputs = self._walk(view, encoding, arrays, slots, scheduled, choose)
        order = walked.context["picked"].numpy()
        sums = prefixes(order, arrays, t)
        cut, cuts = self._cut(view, encoding, arrays, sums, slots, outputs, choose)
        recompute, flags = self._recompute(t, arrays, sums, cuts, choose)
        return {"order": walked, "cut": cut, "recompute": recompute}, Partitions(order, cuts, flags)

    def replay(self, encoding: Encoding, decisions: dict[str, Decisions], scheduled: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, T, N]`` of recorded decisions, by the same names."""
        order = decisions["order"]
        picked, state = order.context["picked"], order.context["state"]
        ops = encoding.ops[picked]
        inputs = self.state_in(state) + torch.cat([torch.zeros_like(ops[:, :1]), ops[:, :-1]], dim=1)
        hidden = self._start(encoding, scheduled)
        outputs = self.gru(inputs, hidden)[0] if self.recurrent else torch.tanh(inputs)
        return {
            "order": self._order_logits(
                encoding, outputs, order.features, order.context["candidates"], state, order.context["lean"]
            ),
            "cut": self._cut_logits(encoding, decisions["cut"], outputs),
            "recompute": self._memory_logits(decisions["recompute"].features),
        }

    def _start(self, encoding: Encoding, scheduled: Tensor) -> Tensor:
        summary = encoding.summary.expand(scheduled.shape[0], -1)
        return torch.tanh(self.start(torch.cat([summary, scheduled], dim=-1))).unsqueeze(0)

    def _walk(
        self,
        view: ProblemView,
        encoding: Encoding,
        arrays: SlotArrays,
        slots: list[tuple[Slot, ...]],
        scheduled: Tensor,
        choose: Chooser,
    ) -> tuple[Decisions, Tensor]:
        batch, t = len(slots), view.tables
        walk = WalkState(t, view.profile.work, _expected_ends(slots, arrays, t), arrays.num_slots)
        hidden = self._start(encoding, scheduled)
        before = encoding.ops.new_zeros(batch, encoding.ops.shape[1])
        lean = _LEAN * (torch.arange(batch) % 2)
        record: list[tuple[Tensor, ...]] = []
        for _ in range(t.num_ops):
            candidates_, features_, mask_, state_ = walk.observe()
            candidates, mask = torch.from_numpy(candidates_), torch.from_numpy(mask_)
            features, state = torch.from_numpy(features_).float(), torch.from_numpy(state_).float()
            inputs = self.state_in(state) + before
            if self.recurrent:
                output, hidden = self.gru(inputs.unsqueeze(1), hidden)
                output = output.squeeze(1)
            else:
                output = torch.tanh(inputs)
            valid = mask[:, 1]
            if bool(valid.any()):
                logits = self._order_logits(encoding, output, features, candidates, state, lean)
                choice = choose(logits, mask)
            else:
                choice = torch.zeros(batch, dtype=torch.int64)
            op = candidates.gather(1, choice.unsqueeze(1)).squeeze(1)
            walk.step(op.numpy())
            before = encoding.ops[op]
            record.append((features, mask, choice, valid, candidates, state, op, output))
        features, mask, choice, valid, candidates, state, op, outputs = (
            torch.stack(x, dim=1) for x in zip(*record, strict=True)
        )
        context = {
            "candidates": candidates,
            "state": state,
            "picked": op,
            "lean": lean.unsqueeze(1).expand(-1, t.num_ops),
        }
        return Decisions(features, mask, choice, valid, context), outputs

    def _order_logits(
        self, encoding: Encoding, outputs: Tensor, features: Tensor, candidates: Tensor, state: Tensor, lean: Tensor
    ) -> Tensor:
        """Scores of ready ops; ``[..., WIDTH]`` for outputs ``[..., H]`` and `lean` ``[...]``."""
        mixed = (
            (self.query(outputs) + self.state_query(state)).unsqueeze(-2)
            + self.key(encoding.ops)[candidates]
            + self.detail(features)
        )
        learned: Tensor = self.score(torch.relu(mixed)).squeeze(-1)
        return learned + lean.unsqueeze(-1) * features[..., _FIRST_READY]

    def _cut(
        self,
        view: ProblemView,
        encoding: Encoding,
        arrays: SlotArrays,
        sums: Prefixes,
        slots: list[tuple[Slot, ...]],
        outputs: Tensor,
        choose: Chooser,
    ) -> tuple[Decisions, Ints]:
        t, batch = view.tables, len(slots)
        m = t.microbatches
        anchors, bottleneck = solve_cuts(arrays, sums, m, sum_passes(view.problem))
        cuts = np.zeros_like(anchors)
        cuts[np.arange(batch), arrays.num_slots] = t.num_ops
        width = arrays.slow_class.shape[1]
        parts = torch.zeros(batch, width, t.num_classes)
        for b, episode in enumerate(slots):
            for s, slot in enumerate(episode):
                for k, count in slot.parts:
                    parts[b, s, k] = count / slot.replicas
        record: list[tuple[Tensor, ...]] = []
        for c in range(1, width):
            features_, mask_ = cut_choices(c, arrays, sums, m, anchors, bottleneck, cuts)
            features, mask = torch.from_numpy(features_).float(), torch.from_numpy(mask_)
            pair = torch.stack([parts[:, c - 1], parts[:, c]], dim=1)
            low, high = cuts[:, c - 1] + 1, t.num_ops - (arrays.num_slots - c)
            anchor = np.minimum(np.maximum(anchors[:, c], low), high)
            at = torch.from_numpy(np.clip(anchor[:, None] + CUT_OFFSETS, 0, t.num_ops - 1))
            step = Decisions(features, mask, mask, mask, {"at": at, "pair": pair})
            logits = self._cut_logits(encoding, step, outputs, single=True)
            choice = choose(logits, mask)
            make_cuts(c, arrays, anchors, cuts, choice.numpy(), t.num_ops)
            record.append((features, mask, choice, mask.sum(-1) > 1, at, pair))
        if not record:
            empty = torch.zeros(batch, 0, len(CUT_OFFSETS))
            none = Decisions(
                torch.zeros(batch, 0, len(CUT_OFFSETS), NUM_CUT_FEATURES),
                empty.bool(),
                torch.zeros(batch, 0, dtype=torch.int64),
                torch.zeros(batch, 0, dtype=torch.bool),
                {"at": empty.long(), "pair": torch.zeros(batch, 0, 2, t.num_classes)},
            )
            return none, cuts
        features, mask, choice, valid, at, pair = (torch.stack(x, dim=1) for x in zip(*record, strict=True))
        return Decisions(features, mask, choice, valid, {"at": at, "pair": pair}), cuts

    def _cut_logits(self, encoding: Encoding, cut: Decisions, outputs: Tensor, single: bool = False) -> Tensor:
        """``[B, T, O]`` (or ``[B, O]`` of a single decision); `outputs` ``[B, n, H]`` of the walk."""
        at, pair = cut.context["at"], cut.context["pair"]
        rows = torch.arange(outputs.shape[0]).reshape(-1, *([1] * (at.dim() - 1)))
        slots = (pair @ encoding.classes).flatten(-2)
        mixed = self.cut_query(outputs)[rows, at] + self.cut_slots(slots).unsqueeze(-2) + self.cut_detail(cut.features)
        return self.cut_score(torch.relu(mixed)).squeeze(-1) - self.cut_prior * cut.features[..., _EXCESS]  # type: ignore[no-any-return]

    def _recompute(
        self, t: Tables, arrays: SlotArrays, sums: Prefixes, cuts: Ints, choose: Chooser
    ) -> tuple[Decisions, Ints]:
        features = torch.from_numpy(stage_memory(arrays, sums, t.microbatches, cuts)).float()
        without, with_it = features[..., 0], features[..., 1]
        keep_ok = (without <= _SURELY_NOT) | (with_it >= without)
        again_ok = (without > _SURELY_FITS) & (with_it < without)
        mask = torch.stack([keep_ok, again_ok], dim=-1)
        logits = self._memory_logits(_pair(features))
        choice = torch.stack([choose(logits[:, s], mask[:, s]) for s in range(mask.shape[1])], dim=1)
        return Decisions(_pair(features), mask, choice, mask.all(-1)), choice.numpy()

    def _memory_logits(self, features: Tensor) -> Tensor:
        """``[B, K, 2]``: keep, recompute; features ``[B, K, 2, NUM_MEMORY_FEATURES]`` (the same for both)."""
        again = self.memory_score(features[..., 0, :]).squeeze(-1) + _MEMORY_PRIOR * (features[..., 0, 0] - 1.0)
        return torch.stack([torch.zeros_like(again), again], dim=-1)


def _pair(features: Tensor) -> Tensor:
    return features.unsqueeze(-2).expand(*features.shape[:-1], 2, features.shape[-1])


def _expected_ends(slots: list[tuple[Slot, ...]], arrays: SlotArrays, t: Tables) -> Floats:
    """``[B, K]`` part of the work at which each slot is full if the work is split by speed."""
    speed = t.speed[arrays.slow_class] / np.maximum(arrays.numbers[:, :, 0], 1e-12)
    speed[np.arange(speed.shape[1]) >= arrays.num_slots[:, None]] = 0.0
    return np.asarray(np.cumsum(speed, axis=1) / speed.sum(axis=1, keepdims=True))
