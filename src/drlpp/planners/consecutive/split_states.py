"""Where a model may be split, and what a stage between two splits costs: the states of the dynamic programs.

A *state* is a set of ops that is closed under predecessors (a downset): everything before a split. A stage is the
difference of two states. `along_order` takes the prefixes of one topological order; `over_downsets` takes all
downsets of the graph, where there are few enough.

Left out: a value that several later stages consume costs its sender once here, although in a plan the sender pays for
each consuming device; and ops that share parameters or saved tensors. Planners therefore rank the results of the
programs with the evaluator.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.problem_arrays import ProblemArrays
from drlpp.native import library

MAX_POSITIONS = 2048
"""Most splits along one order; longer orders are cut in blocks of about equal work (two tables have its square)."""


@dataclasses.dataclass(frozen=True)
class SplitModel:
    """States sorted by work, from the empty one to all ops (P of them), and the costs between them.

    Attributes:
        work_s: ``[P]`` seconds of the ops of each state on the fastest type for each op (so never an overestimate).
        total_s, forward_s: ``[T, P]`` seconds by device type.
        param_bytes, fixed_bytes, saved_bytes: ``[P]``, as in `OpAmounts`.
        received, sent: ``[P, P]`` amount (`OpAmounts.value_amount`) that stage (i, j) receives and sends; `received`
            is inf where state j does not contain state i.
        members: ``[P, N]`` which ops each state has.
    """

    work_s: NDArray[np.float64]
    total_s: NDArray[np.float64]
    forward_s: NDArray[np.float64]
    param_bytes: NDArray[np.float64]
    fixed_bytes: NDArray[np.float64]
    saved_bytes: NDArray[np.float64]
    received: NDArray[np.float64]
    sent: NDArray[np.float64]
    members: NDArray[np.bool_]

    @property
    def num_states(self) -> int:
        return len(self.work_s)

    def part(self, kept: NDArray[np.int64]) -> SplitModel:
        """Some of the states, in order; the empty one and all ops must be among them."""
        pairs = np.ix_(kept, kept)
        return SplitModel(
            work_s=self.work_s[kept],
            total_s=np.ascontiguousarray(self.total_s[:, kept]),
            forward_s=np.ascontiguousarray(self.forward_s[:, kept]),
            param_bytes=self.param_bytes[kept],
            fixed_bytes=self.fixed_bytes[kept],
            saved_bytes=self.saved_bytes[kept],
            received=self.received[pairs],
            sent=self.sent[pairs],
            members=self.members[kept],
        )

    def stage_ops(self, start: int, stop: int) -> NDArray[np.int64]:
        """Indices of the ops of stage (start, stop)."""
        return np.flatnonzero(self.members[stop] & ~self.members[start])


def along_order(arrays: ProblemArrays, order: NDArray[np.int64], max_positions: int = MAX_POSITIONS) -> SplitModel:
    """Prefixes of a topological order ``[N]``; of blocks of about equal work if there are more than `max_positions`."""
    ends = _block_ends(arrays.times.total_s.min(axis=0)[order], max_positions - 1)
    amounts = library.amounts_along_order(arrays.ops, order, ends)
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    bounds = np.concatenate(([0], ends))

    def prefix(values: NDArray[np.float64]) -> NDArray[np.float64]:
        zero = np.zeros((*values.shape[:-1], 1))
        sums = np.concatenate((zero, np.cumsum(values[..., order], axis=-1)), axis=-1)
        return np.ascontiguousarray(sums[..., bounds])

    return SplitModel(
        work_s=prefix(arrays.times.total_s.min(axis=0)),
        total_s=prefix(arrays.times.total_s),
        forward_s=prefix(arrays.times.forward_s),
        param_bytes=prefix(arrays.ops.param_bytes),
        fixed_bytes=prefix(arrays.ops.fixed_bytes),
        saved_bytes=prefix(arrays.ops.saved_bytes),
        **amounts,
        members=position[None, :] < bounds[:, None],
    )


def over_downsets(arrays: ProblemArrays, masks: NDArray[np.bool_]) -> SplitModel:
    """All given downsets ``[P, N]`` (among them the empty one and the full one)."""
    work = masks @ arrays.times.total_s.min(axis=0)
    tie_break = 1e-13 * work.max() + 1e-300  # a superset comes later, whatever the rounding of the sums
    members = masks[np.argsort(work + tie_break * masks.sum(axis=1), kind="stable")]
    amounts = library.amounts_over_downsets(arrays.ops, members)
    as_float = members.astype(np.float64)
    return SplitModel(
        work_s=as_float @ arrays.times.total_s.min(axis=0),
        total_s=np.ascontiguousarray(arrays.times.total_s @ as_float.T),
        forward_s=np.ascontiguousarray(arrays.times.forward_s @ as_float.T),
        param_bytes=as_float @ arrays.ops.param_bytes,
        fixed_bytes=as_float @ arrays.ops.fixed_bytes,
        saved_bytes=as_float @ arrays.ops.saved_bytes,
        **amounts,
        members=members,
    )


def _block_ends(work_s: NDArray[np.float64], max_blocks: int) -> NDArray[np.int64]:
    """Exclusive ends of blocks of consecutive ops: every op, or blocks of about equal work."""
    n = len(work_s)
    if n <= max_blocks:
        return np.arange(1, n + 1)
    share = np.cumsum(work_s + work_s.sum() / n / 10 + 1e-30)
    block = np.minimum((share / share[-1] * max_blocks).astype(np.int64), max_blocks - 1)
    return np.append(np.flatnonzero(np.diff(block)) + 1, n)
