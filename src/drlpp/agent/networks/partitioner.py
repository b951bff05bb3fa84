"""The recurrent partitioner: orders the ops, and cuts the order into stages.

The first decision is the *order*: one of a few fixed ones (`view.fixed_orders`), or a walk of its own, for which one
decision per op follows: which of the ready ops comes next (`decisions.op_order_env`; the mask makes every walk a
topological order). A GRU carries what was passed; features carry the fill of the slot that the order has reached, the
bytes that are live (the cut), and the devices to come. Then one decision per boundary: where to cut, near the anchor
that the dynamic programme gives for this order and these slots (`decisions.stage_cuts`), and one per stage: whether to
recompute activations. The order, the boundaries and recomputation start from a prior (what the programme estimates)
that learning corrects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from drlpp.agent.decisions.device_groups import Bools, Slot
from drlpp.agent.decisions.masked_choice import Chooser, Decisions, stack_steps
from drlpp.agent.decisions.op_order_env import NUM_CANDIDATE_FEATURES, NUM_STATE_FEATURES, WalkState
from drlpp.agent.decisions.stage_cuts import (
    CUT_OFFSETS,
    NUM_CUT_FEATURES,
    NUM_MEMORY_FEATURES,
    Anchors,
    Prefixes,
    SlotArrays,
    cut_choices,
    judge_cuts,
    make_cuts,
    prefixes,
    slot_arrays,
    solve_cuts,
    stage_memory,
)
from drlpp.agent.networks.encoder import Encoding, mlp
from drlpp.agent.view.device_classes import Floats, Ints, Tables
from drlpp.agent.view.features import ProblemView
from drlpp.agent.view.fixed_orders import FIXED_ORDERS
from drlpp.plan.settings import AGAIN, PLAIN, StageSettings

WALK = len(FIXED_ORDERS)
"""The last choice of the order: a walk."""
_NUM_ORDERS = WALK + 1
_EXCESS, _CUT_PRIOR, _ORDER_PRIOR, _WALK_PRIOR, _MEMORY_PRIOR = 5, 40.0, 20.0, -2.0, 8.0
_NEXT_PRIOR = (0.5, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0)
"""Weights of the candidates' features (see `walk`) that a walk starts from: go on, narrow, in the graph's order."""
_SURELY_FITS, _SURELY_NOT = 0.6, 1.3
_ROUGH_PLACES = 48
"""Places of cuts that tell promising slots from others."""


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

    def select(self, rows: Ints) -> Partitions:
        """Some of the episodes."""
        return Partitions(self.order[rows], self.cuts[rows], self.recompute[rows])

    def settings(self, episode: int, num_stages: int) -> tuple[StageSettings, ...]:
        """Of the stages of one episode."""
        return tuple(AGAIN if flag else PLAIN for flag in self.recompute[episode, :num_stages].tolist())


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
        self.order_query = nn.Linear(width, 16)
        self.order_detail = nn.Linear(2 * _NUM_ORDERS, 16)
        self.order_score = nn.Linear(16, 1)
        self.order_prior = nn.Parameter(torch.tensor(_ORDER_PRIOR))
        self.state_in = nn.Linear(NUM_STATE_FEATURES, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.query = nn.Linear(width, width)
        self.state_query = nn.Linear(NUM_STATE_FEATURES, width)
        self.key = nn.Linear(width, width)
        self.detail = mlp(NUM_CANDIDATE_FEATURES, width, width)
        self.score = nn.Linear(width, 1)
        self.next_prior = nn.Parameter(torch.tensor(_NEXT_PRIOR))
        self.cut_query = nn.Linear(width, width)
        self.cut_slots = nn.Linear(2 * width, width)
        self.cut_detail = mlp(NUM_CUT_FEATURES, width, width)
        self.cut_score = nn.Linear(width, 1)
        self.cut_prior = nn.Parameter(torch.tensor(_CUT_PRIOR))
        excess = nn.Linear(16, 1)
        self.memory_score = nn.Sequential(nn.Linear(NUM_MEMORY_FEATURES, 16), nn.ReLU(), excess)
        for last in (self.order_score, self.cut_score, excess):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def sample(
        self, view: ProblemView, encoding: Encoding, slots: list[tuple[Slot, ...]], scheduled: Tensor, choose: Chooser
    ) -> tuple[dict[str, Decisions], Partitions]:
        """Draws the partitions of B episodes.

        Args:
            slots: of each episode.
            scheduled: ``[B, H]`` the scheduler's final state.

        Returns:
            Decisions under ``order`` ``[B, 1]``, ``walk`` ``[B, n]``, ``cut`` ``[B, K - 1]`` and ``recompute``
            ``[B, K]``; the partitions.
        """
        t = view.tables
        arrays = slot_arrays(slots, t, view.problem)
        order = self._order(view, arrays, scheduled, choose)
        walk = self._walk(view, encoding, arrays, scheduled, order.choice[:, 0], choose)
        sums = prefixes(walk.context["picked"].numpy(), arrays, t)
        outputs = self._outputs(encoding, walk, scheduled)
        parts, partitions = self._stages(
            view, encoding, slots, arrays, sums, solve_cuts(arrays, sums, t), outputs, choose
        )
        return {"order": order, "walk": walk, **parts}, partitions

    def vary(
        self,
        view: ProblemView,
        encoding: Encoding,
        slots: list[tuple[Slot, ...]],
        scheduled: Tensor,
        decisions: dict[str, Decisions],
        partitions: Partitions,
        choose: Chooser,
    ) -> tuple[dict[str, Decisions], Partitions]:
        """Decides cuts and recomputation of given partitions again; the anchors of the cuts are those partitions' own.

        Args:
            decisions, partitions: of the episodes that are varied; their order and walk stay.

        Returns:
            As `sample`.
        """
        t = view.tables
        arrays = slot_arrays(slots, t, view.problem)
        sums = prefixes(partitions.order, arrays, t)
        anchors = judge_cuts(arrays, sums, t, partitions.cuts)
        outputs = self._outputs(encoding, decisions["walk"], scheduled)
        parts, varied = self._stages(view, encoding, slots, arrays, sums, anchors, outputs, choose)
        return {"order": decisions["order"], "walk": decisions["walk"], **parts}, varied

    def _stages(
        self,
        view: ProblemView,
        encoding: Encoding,
        slots: list[tuple[Slot, ...]],
        arrays: SlotArrays,
        sums: Prefixes,
        anchors: Anchors,
        outputs: Tensor,
        choose: Chooser,
    ) -> tuple[dict[str, Decisions], Partitions]:
        """The decisions on stages of given orders: cuts near anchors, and recomputation."""
        cut, cuts = self._cut(view, encoding, arrays, sums, anchors, slots, outputs, choose)
        recompute, flags = self._recompute(view.tables, arrays, sums, anchors.split, cuts, choose)
        return {"cut": cut, "recompute": recompute}, Partitions(sums.orders, cuts, flags)

    def replay(self, encoding: Encoding, decisions: dict[str, Decisions], scheduled: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, T, N]`` of recorded decisions, by the same names."""
        walk = decisions["walk"]
        outputs = self._outputs(encoding, walk, scheduled)
        logits = outputs.new_zeros(walk.mask.shape)
        rows = torch.nonzero(walk.valid.any(dim=1)).squeeze(1)
        if len(rows):
            w = walk.select(rows)
            own = self._next_logits(encoding, outputs[rows], w.features, w.context["candidates"], w.context["state"])
            logits = logits.index_put((rows,), own)
        return {
            "order": self._order_logits(decisions["order"].features, scheduled),
            "walk": logits,
            "cut": self._cut_logits(encoding, decisions["cut"], outputs),
            "recompute": self._memory_logits(decisions["recompute"].features),
        }

    def _outputs(self, encoding: Encoding, walk: Decisions, scheduled: Tensor) -> Tensor:
        """``[B, n, H]``: at each step, what has been passed before it."""
        ops = encoding.ops[walk.context["picked"]]
        inputs = self.state_in(walk.context["state"]) + torch.cat([torch.zeros_like(ops[:, :1]), ops[:, :-1]], dim=1)
        if not self.recurrent:
            return torch.tanh(inputs)
        return self.gru(inputs, self._start(encoding, scheduled))[0]  # type: ignore[no-any-return]

    def _start(self, encoding: Encoding, scheduled: Tensor) -> Tensor:
        summary = encoding.summary.expand(scheduled.shape[0], -1)
        return torch.tanh(self.start(torch.cat([summary, scheduled], dim=-1))).unsqueeze(0)

    def _order(self, view: ProblemView, arrays: SlotArrays, scheduled: Tensor, choose: Chooser) -> Decisions:
        batch = len(arrays.num_slots)
        mask = np.zeros((batch, 1, _NUM_ORDERS), dtype=bool)
        mask[..., :WALK] = view.order_is_new
        mask[..., WALK] = view.has_orders
        features = np.zeros((batch, 1, _NUM_ORDERS, 2 * _NUM_ORDERS))
        features[..., :_NUM_ORDERS] = np.eye(_NUM_ORDERS)
        if view.has_orders:
            value = order_values(view, arrays)
            excess = np.minimum(value / np.maximum(value.min(axis=1, keepdims=True), 1e-30) - 1.0, 3.0)
            features[:, 0, :WALK, _NUM_ORDERS] = excess
            features[:, 0, :, _NUM_ORDERS + 1 :] = excess[:, None, :]
        seen, legal = torch.from_numpy(features).float(), torch.from_numpy(mask)
        logits = self._order_logits(seen, scheduled)
        choice = choose(logits[:, 0], legal[:, 0]).unsqueeze(1)
        return Decisions(seen, legal, choice, legal.sum(-1) > 1)

    def _order_logits(self, features: Tensor, scheduled: Tensor) -> Tensor:
        """``[B, 1, _NUM_ORDERS]``."""
        mixed = self.order_query(scheduled)[:, None, None, :] + self.order_detail(features)
        prior = _WALK_PRIOR * features[..., WALK] - self.order_prior * features[..., _NUM_ORDERS]
        return self.order_score(torch.relu(mixed)).squeeze(-1) + prior  # type: ignore[no-any-return]

    def _walk(
        self,
        view: ProblemView,
        encoding: Encoding,
        arrays: SlotArrays,
        scheduled: Tensor,
        order: Tensor,
        choose: Chooser,
    ) -> Decisions:
        """Passes the ops in the chosen order ``[B]``; only walks make decisions."""
        batch, t = len(order), view.tables
        walk = WalkState(t, view.profile.work, _expected_ends(arrays, t), arrays.num_slots)
        given = view.orders[order.clamp(max=WALK - 1).numpy()]
        rows = torch.nonzero(order == WALK).squeeze(1)
        hidden = self._start(encoding, scheduled[rows])
        before = encoding.ops.new_zeros(len(rows), encoding.ops.shape[1])
        walks = torch.zeros(batch, dtype=torch.bool).index_fill(0, rows, True)
        record: list[tuple[Tensor, ...]] = []
        for i in range(t.num_ops):
            candidates_, features_, mask_, state_ = walk.observe()
            candidates, mask = torch.from_numpy(candidates_), torch.from_numpy(mask_)
            features, state = torch.from_numpy(features_).float(), torch.from_numpy(state_).float()
            op, choice = torch.from_numpy(given[:, i].copy()), torch.zeros(batch, dtype=torch.int64)
            valid = mask[:, 1] & walks
            if len(rows):
                inputs = self.state_in(state[rows]) + before
                if self.recurrent:
                    output, hidden = self.gru(inputs.unsqueeze(1), hidden)
                    output = output.squeeze(1)
                else:
                    output = torch.tanh(inputs)
                if bool(valid.any()):
                    logits = self._next_logits(encoding, output, features[rows], candidates[rows], state[rows])
                    choice[rows] = choose(logits, mask[rows], rows)
                op[rows] = candidates[rows, choice[rows]]
                before = encoding.ops[op[rows]]
            walk.step(op.numpy())
            record.append((features, mask, choice, valid, candidates, state, op))
        features, mask, choice, valid, candidates, state, op = stack_steps(record)
        return Decisions(features, mask, choice, valid, {"candidates": candidates, "state": state, "picked": op})

    def _next_logits(
        self, encoding: Encoding, outputs: Tensor, features: Tensor, candidates: Tensor, state: Tensor
    ) -> Tensor:
        """Scores of ready ops; ``[..., WIDTH]`` for outputs ``[..., H]``."""
        mixed = (
            (self.query(outputs) + self.state_query(state)).unsqueeze(-2)
            + self.key(encoding.ops)[candidates]
            + self.detail(features)
        )
        return self.score(torch.relu(mixed)).squeeze(-1) + features @ self.next_prior  # type: ignore[no-any-return]

    def _cut(
        self,
        view: ProblemView,
        encoding: Encoding,
        arrays: SlotArrays,
        sums: Prefixes,
        best: Anchors,
        slots: list[tuple[Slot, ...]],
        outputs: Tensor,
        choose: Chooser,
    ) -> tuple[Decisions, Ints]:
        t, batch = view.tables, len(slots)
        anchors = best.cuts
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
            features_, mask_ = cut_choices(c, arrays, sums, best, cuts)
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
        features, mask, choice, valid, at, pair = stack_steps(record)
        return Decisions(features, mask, choice, valid, {"at": at, "pair": pair}), cuts

    def _cut_logits(self, encoding: Encoding, cut: Decisions, outputs: Tensor, single: bool = False) -> Tensor:
        """``[B, T, O]`` (or ``[B, O]`` of a single decision); `outputs` ``[B, n, H]`` of the walk."""
        at, pair = cut.context["at"], cut.context["pair"]
        rows = torch.arange(outputs.shape[0]).reshape(-1, *([1] * (at.dim() - 1)))
        slots = (pair @ encoding.classes).flatten(-2)
        mixed = self.cut_query(outputs)[rows, at] + self.cut_slots(slots).unsqueeze(-2) + self.cut_detail(cut.features)
        return self.cut_score(torch.relu(mixed)).squeeze(-1) - self.cut_prior * cut.features[..., _EXCESS]  # type: ignore[no-any-return]

    def _recompute(
        self, t: Tables, arrays: SlotArrays, sums: Prefixes, split: Bools, cuts: Ints, choose: Chooser
    ) -> tuple[Decisions, Ints]:
        features = torch.from_numpy(stage_memory(arrays, sums, split, cuts)).float()
        without, with_it, one = features[..., 0], features[..., 1], features[..., 4]
        keep_ok = (one <= _SURELY_NOT) | (with_it >= without)
        again_ok = (without > _SURELY_FITS) & (with_it < without)
        mask = torch.stack([keep_ok, again_ok], dim=-1)
        logits = self._memory_logits(_pair(features))
        choice = torch.stack([choose(logits[:, s], mask[:, s]) for s in range(mask.shape[1])], dim=1)
        return Decisions(_pair(features), mask, choice, mask.all(-1)), choice.numpy()

    def _memory_logits(self, features: Tensor) -> Tensor:
        """``[B, K, 2]``: keep, recompute; features ``[B, K, 2, NUM_MEMORY_FEATURES]`` (the same for both)."""
        again = self.memory_score(features[..., 0, :]).squeeze(-1) + _MEMORY_PRIOR * features[..., 0, 3]
        return torch.stack([torch.zeros_like(again), again], dim=-1)


def order_values(view: ProblemView, arrays: SlotArrays, places: int | None = None) -> Floats:
    """``[B, len(FIXED_ORDERS)]`` estimate of the objective for each fixed order; infinite for one that is not new.

    Args:
        places: as `solve_cuts` takes it.
    """
    t, batch = view.tables, len(arrays.num_slots)
    value = np.full((batch, WALK), np.inf)
    for k in np.flatnonzero(view.order_is_new):
        sums = prefixes(np.tile(view.orders[k], (batch, 1)), arrays, t)
        value[:, k] = solve_cuts(arrays, sums, t, places).value
    return value


def estimate(view: ProblemView, slots: Sequence[tuple[Slot, ...]]) -> Floats:
    """``[B]`` a rough estimate of the objective for slots, in the best of the fixed orders; seconds."""
    return np.asarray(order_values(view, slot_arrays(slots, view.tables, view.problem), _ROUGH_PLACES).min(axis=1))


def _pair(features: Tensor) -> Tensor:
    return features.unsqueeze(-2).expand(*features.shape[:-1], 2, features.shape[-1])


def _expected_ends(arrays: SlotArrays, t: Tables) -> Floats:
    """``[B, K]`` part of the work at which each slot is full if the work is split by speed."""
    speed = t.speed[arrays.slow_class] / np.maximum(arrays.rounds, 1e-12)
    speed[np.arange(speed.shape[1]) >= arrays.num_slots[:, None]] = 0.0
    return np.asarray(np.cumsum(speed, axis=1) / speed.sum(axis=1, keepdims=True))
