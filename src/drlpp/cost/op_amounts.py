"""What the ops of a problem hold, and the values between them, as flat arrays: what planners and their kernels read.

A *value* is what one op sends under one name in one phase; it goes once to each device that consumes it. Left out:
which parameters and saved tensors several ops share (they count at their first reader), so memory is an estimate here
and the simulator has the last word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.optimizer_state import op_fixed_bytes
from drlpp.graph.csr import grouped, offset_rows
from drlpp.problem import PlanningProblem

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class OpAmounts(NamedTuple):
    """The part of `ProblemArrays` that speaks of whole ops: N ops, V values, sorted by producer, name and phase.

    Attributes:
        param_bytes, saved_bytes: ``[N]`` of trained parameters and kept tensors, shared ones at their first reader.
        fixed_bytes: ``[N]`` resident bytes of frozen parameters and buffers.
        before_ptr, before: ``[N + 1]``, flat: predecessors of each op.
        after_ptr, after: the same of the successors.
        value_src: ``[V]`` producing op.
        value_amount: ``[V]`` what one copy of the value, and of its gradient where there is one, costs each of its two
            ends: bytes, or seconds if `timed`.
        value_copies: ``[V]`` 2 if a gradient flows back, else 1.
        consumer_ptr, consumer_op: ``[V + 1]``, ``[sum]`` consuming ops of each value, without its producer.
        touch_ptr, touch_value: ``[N + 1]``, ``[sum]`` values that each op produces (first) or consumes.
        produces: ``[N]`` how many of the touched values the op produces.
        timed: the graph's edges carry transfer times, so links of the cluster do not matter.
    """

    param_bytes: _Floats
    fixed_bytes: _Floats
    saved_bytes: _Floats
    before_ptr: _Ints
    before: _Ints
    after_ptr: _Ints
    after: _Ints
    value_src: _Ints
    value_amount: _Floats
    value_copies: _Floats
    consumer_ptr: _Ints
    consumer_op: _Ints
    touch_ptr: _Ints
    touch_value: _Ints
    produces: _Ints
    timed: bool

    @property
    def num_ops(self) -> int:
        return len(self.param_bytes)

    def consumers(self, value: int) -> _Ints:
        """The ops that consume a value."""
        return self.consumer_op[self.consumer_ptr[value] : self.consumer_ptr[value + 1]]


def op_amounts(problem: PlanningProblem) -> OpAmounts:
    """The amounts of a problem's ops."""
    graph, values = problem.graph, problem.graph.values
    before_ptr, before = offset_rows(graph.predecessors)
    after_ptr, after = offset_rows(graph.successors)
    names = list(graph.tensor_bytes)
    keys = zip(values.src.tolist(), (names[t] for t in values.tensor.tolist()), ~values.backward, strict=True)
    order = np.array([v for _, v in sorted((key, v) for v, key in enumerate(keys))], dtype=np.int64)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    src, copies = values.src[order], np.where(values.gradient[order], 2.0, 1.0)
    timed = graph.has_transfer_times
    amount = np.maximum(values.transfer_s, 0.0) if timed else graph.tensor_table.bytes[values.tensor]
    of_consumer = place[np.repeat(np.arange(len(order)), np.diff(values.consumer_off))]
    consumer_ptr, consumer_op = grouped(of_consumer, values.consumer, len(order))
    consumed = np.repeat(np.arange(len(order)), np.diff(consumer_ptr))
    touch_ptr, touch_value = grouped(
        np.concatenate([src, consumer_op]), np.concatenate([np.arange(len(order)), consumed]), graph.num_ops
    )
    return OpAmounts(
        param_bytes=graph.op_trained_bytes,
        fixed_bytes=op_fixed_bytes(graph, problem.training),
        saved_bytes=graph.op_saved_bytes,
        before_ptr=before_ptr,
        before=before,
        after_ptr=after_ptr,
        after=after,
        value_src=src,
        value_amount=amount[order] * copies,
        value_copies=copies,
        consumer_ptr=consumer_ptr,
        consumer_op=consumer_op,
        touch_ptr=touch_ptr,
        touch_value=touch_value,
        produces=np.bincount(src, minlength=graph.num_ops).astype(np.int64),
        timed=timed,
    )
