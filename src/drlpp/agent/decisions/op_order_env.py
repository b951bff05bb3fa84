"""The partitioner's walk as an environment: ops in a topological order, one chosen after another.

At each step the ops whose predecessors are all done are *ready*; the mask allows only those, so every walk is a
topological order and every cut of it a legal partition. Any legal partition is reachable: walk its stages one after
another. Which branch is followed first decides what can share a stage, so stages need not be contiguous segments of
the graph's own order.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from drlpp.agent.view.device_classes import Floats, Ints, Tables

WIDTH = 12
"""Ready ops that a decision chooses from; where more are ready, the ones that became ready last are offered."""
NUM_CANDIDATE_FEATURES = 7
NUM_STATE_FEATURES = 8


class WalkState:
    """The state of B walks on one problem.

    Args:
        t: the problem.
        work: ``[n + 1]`` fraction of the work before each op in the graph's own order.
        ends: ``[B, K]`` share of the work, accumulated, at which each slot is expected to be full (1 for the last).
        num_slots: ``[B]``.
    """

    def __init__(self, t: Tables, work: Floats, ends: Floats, num_slots: Ints) -> None:
        batch, n = len(num_slots), t.num_ops
        self._t = t
        self._share = np.diff(work)
        self._ends, self._num_slots = ends, num_slots
        self._waiting = np.tile(t.num_pred, (batch, 1))
        sources = np.flatnonzero(t.num_pred == 0)
        self._ready = np.zeros((batch, n), dtype=np.int64)
        self._ready[:, : len(sources)] = sources[::-1]
        self._num_ready = np.full(batch, len(sources), dtype=np.int64)
        self._since = np.zeros((batch, n), dtype=np.int64)
        self._pending = np.tile(np.diff(t.tensor_ptr), (batch, 1)).astype(np.int64)
        self._live = np.zeros(batch)
        self._done = np.zeros(batch)
        self._last = np.full(batch, -1, dtype=np.int64)
        self._step = 0
        self._mean_live = max(float(t.live_bytes(np.arange(n)).mean()), 1e-30)

    def observe(self) -> tuple[Ints, Floats, NDArray[np.bool_], Floats]:
        """What the next decision is made on.

        Returns:
            Candidates ``[B, WIDTH]``, op indices (0 where masked); features of them
            ``[B, WIDTH, NUM_CANDIDATE_FEATURES]``; their mask ``[B, WIDTH]``; features of the state
            ``[B, NUM_STATE_FEATURES]``.
        """
        batch = len(self._num_ready)
        candidates = np.zeros((batch, WIDTH), dtype=np.int64)
        features = np.zeros((batch, WIDTH, NUM_CANDIDATE_FEATURES))
        mask = np.zeros((batch, WIDTH), dtype=bool)
        state = np.zeros((batch, NUM_STATE_FEATURES))
        t = self._t
        _observe(
            self._ready, self._num_ready, self._since, self._pending, self._live, self._done, self._last, self._step,
            self._share, self._ends, self._num_slots, self._mean_live,
            t.tensor_ptr, t.tensor_bytes, t.op_tensor_ptr, t.op_tensors, t.succ_ptr, t.succ,
            candidates, features, mask, state,
        )  # fmt: skip
        return candidates, features, mask, state

    def step(self, ops: Ints) -> None:
        """Does the chosen ready ops, ``[B]``."""
        t = self._t
        self._step += 1
        _advance(
            ops, self._ready, self._num_ready, self._since, self._pending, self._live, self._done, self._last,
            self._step, self._waiting, self._share,
            t.tensor_ptr, t.tensor_bytes, t.op_tensor_ptr, t.op_tensors, t.succ_ptr, t.succ,
        )  # fmt: skip


@numba.njit(cache=True)
def _observe(  # type: ignore[no-untyped-def]
    ready, num_ready, since, pending, live, done, last, step, share, ends, num_slots, mean_live,
    tensor_ptr, tensor_bytes, op_tensor_ptr, op_tensors, succ_ptr, succ, candidates, features, mask, state,
):  # fmt: skip
    n = len(share)
    for b in range(len(num_ready)):
        slot = 0
        while slot < num_slots[b] - 1 and done[b] >= ends[b, slot] - 1e-9:
            slot += 1
        start = ends[b, slot - 1] if slot > 0 else 0.0
        width = max(ends[b, slot] - start, 1e-9)
        count = min(num_ready[b], candidates.shape[1])
        smallest = n
        for k in range(count):
            smallest = min(smallest, ready[b, num_ready[b] - 1 - k])
        for k in range(count):
            v = ready[b, num_ready[b] - 1 - k]
            candidates[b, k] = v
            mask[b, k] = True
            added, freed = 0.0, 0.0
            for x in range(op_tensor_ptr[v], op_tensor_ptr[v + 1]):
                q = op_tensors[x]
                ends_total = tensor_ptr[q + 1] - tensor_ptr[q]
                if pending[b, q] == ends_total:
                    added += tensor_bytes[q]
                elif pending[b, q] == 1:
                    freed += tensor_bytes[q]
            follows = 0.0
            if last[b] >= 0:
                for x in range(succ_ptr[last[b]], succ_ptr[last[b] + 1]):
                    if succ[x] == v:
                        follows = 1.0
            f = features[b, k]
            f[0] = follows
            f[1] = math.log(1.0 + step - since[b, v]) / 3.0
            f[2] = min(max((added - freed) / mean_live, -3.0), 3.0)
            f[3] = math.log(share[v] * n + 1e-3) / 3.0
            f[4] = 1.0 if v == smallest else 0.0
            f[5] = min((v - smallest) / n * 4.0, 2.0)
            f[6] = 1.0 if slot < num_slots[b] - 1 and done[b] + share[v] > ends[b, slot] else 0.0
        f = state[b]
        f[0] = done[b]
        f[1] = slot / num_slots[b]
        f[2] = min((ends[b, slot] - done[b]) / width, 1.0)
        f[3] = math.log(width * num_slots[b] + 1e-3) / 3.0
        f[4] = math.log(num_slots[b]) / 3.0
        f[5] = math.log(live[b] / mean_live + 1e-3) / 3.0
        f[6] = math.log(num_ready[b] + 0.0) / 3.0 if num_ready[b] > 0 else 0.0
        f[7] = min(live[b] / mean_live, 4.0) / 2.0


@numba.njit(cache=True)
def _advance(  # type: ignore[no-untyped-def]
    ops, ready, num_ready, since, pending, live, done, last, step, waiting, share,
    tensor_ptr, tensor_bytes, op_tensor_ptr, op_tensors, succ_ptr, succ,
):  # fmt: skip
    for b in range(len(ops)):
        v = ops[b]
        k = 0
        while ready[b, k] != v:
            k += 1
        for x in range(k, num_ready[b] - 1):
            ready[b, x] = ready[b, x + 1]
        num_ready[b] -= 1
        done[b] += share[v]
        last[b] = v
        for x in range(op_tensor_ptr[v], op_tensor_ptr[v + 1]):
            q = op_tensors[x]
            if pending[b, q] == tensor_ptr[q + 1] - tensor_ptr[q]:
                live[b] += tensor_bytes[q]
            pending[b, q] -= 1
            if pending[b, q] == 0:
                live[b] -= tensor_bytes[q]
        for x in range(succ_ptr[v + 1] - 1, succ_ptr[v] - 1, -1):
            w = succ[x]
            waiting[b, w] -= 1
            if waiting[b, w] == 0:
                ready[b, num_ready[b]] = w
                num_ready[b] += 1
                since[b, w] = step
