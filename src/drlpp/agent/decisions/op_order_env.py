"""The partitioner's walk as an environment: ops in a topological order, one chosen after another.

At each step the ops whose predecessors are all done are *ready*; the mask allows only those, so every walk is a
topological order and every cut of it a legal partition. Any legal partition is reachable: walk its stages one after
another. Which branch is followed first decides what can share a stage, so stages need not be contiguous segments of
the graph's own order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.agent.view.device_classes import Floats, Ints, Tables
from drlpp.native import library

WIDTH = 12
"""Ready ops that a decision chooses from; where more are ready, the ones that became ready last are offered."""
NUM_CANDIDATE_FEATURES: int = library.NUM_CANDIDATE_FEATURES
"""Of each ready op; `CandidateFeatures` in src/native/agent/op_order_env.h says which."""
NUM_STATE_FEATURES: int = library.NUM_STATE_FEATURES
"""Of the walk; `StateFeatures`, likewise."""


class WalkSetting(NamedTuple):
    """B walks on a problem.

    Attributes:
        share: ``[n]`` part of the work of each op.
        ends: ``[B, K]`` share of the work, accumulated, at which each slot is expected to be full (1 for the last).
        num_slots: ``[B]``.
        mean_live_bytes: bytes that a cut crosses, mean over the graph's own order.
        width: ready ops that a decision chooses from.
    """

    share: Floats
    ends: Floats
    num_slots: Ints
    mean_live_bytes: float
    width: int


class Observation(NamedTuple):
    """What the next decision is made on.

    Attributes:
        candidates: ``[B, WIDTH]`` ops; 0 where masked.
        features: ``[B, WIDTH, NUM_CANDIDATE_FEATURES]`` of them.
        mask: ``[B, WIDTH]``.
        state: ``[B, NUM_STATE_FEATURES]``.
    """

    candidates: Ints
    features: Floats
    mask: NDArray[np.bool_]
    state: Floats


class WalkState:
    """The state of B walks on one problem.

    Args:
        t: the problem.
        work: ``[n + 1]`` fraction of the work before each op in the graph's own order.
        ends: see `WalkSetting`.
        num_slots: ``[B]``.

    Raises:
        ValueError: arrays that do not fit together.
    """

    def __init__(self, t: Tables, work: Floats, ends: Floats, num_slots: Ints) -> None:
        setting = WalkSetting(
            share=np.diff(work),
            ends=np.ascontiguousarray(ends),
            num_slots=num_slots,
            mean_live_bytes=max(float(t.live_bytes(np.arange(t.num_ops)).mean()), 1e-30),
            width=WIDTH,
        )
        self._walks = library.OpOrderWalks(t, setting)

    @property
    def live_bytes(self) -> Floats:
        """``[B]`` bytes of tensors that an op still to be done reads."""
        return self._walks.live_bytes

    def observe(self) -> Observation:
        """What the next decision is made on."""
        return Observation(**self._walks.observe())

    def step(self, ops: Ints) -> None:
        """Does the chosen ready ops, ``[B]``. Raises ValueError if one is not ready."""
        self._walks.step(np.ascontiguousarray(ops))
