"""The planning problem as flat arrays: what the numeric kernels of the planners work on.

A *value* is what one op sends under one name in one phase; it goes once to each device that consumes it. Left out:
which parameters and saved tensors several ops share (they count at their first reader), so memory is an estimate here
and the simulator has the last word.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.optimizer_state import op_fixed_bytes
from drlpp.cost.problem_times import problem_times
from drlpp.graph import OpGraph
from drlpp.graph.csr import grouped, offset_rows
from drlpp.problem import PlanningProblem, per_problem


@dataclasses.dataclass(frozen=True)
class OpArrays:
    """Arrays of a problem: N ops, T device types, V values.

    Attributes:
        forward_s: ``[T, N]`` forward seconds per micro-batch.
        total_s: ``[T, N]`` forward and backward seconds per micro-batch.
        param_bytes, saved_bytes: ``[N]`` of trained parameters and kept tensors, shared ones at their first reader.
        fixed_bytes: ``[N]`` resident bytes of frozen parameters and buffers.
        value_src: ``[V]`` producing op.
        value_amount: ``[V]`` what one copy of the value, and of its gradient where there is one, costs each of its two
            ends: bytes, or seconds if `timed`.
        value_copies: ``[V]`` 2 if a gradient flows back, else 1.
        consumer_ptr, consumer_op: ``[V + 1]``, ``[sum]`` consuming ops of each value, without its producer.
        touch_ptr, touch_value: ``[N + 1]``, ``[sum]`` values that each op produces (first) or consumes.
        produces: ``[N]`` how many of the touched values the op produces.
        timed: the graph's edges carry transfer times, so links of the cluster do not matter.
    """

    forward_s: NDArray[np.float64]
    total_s: NDArray[np.float64]
    param_bytes: NDArray[np.float64]
    fixed_bytes: NDArray[np.float64]
    saved_bytes: NDArray[np.float64]
    value_src: NDArray[np.int64]
    value_amount: NDArray[np.float64]
    value_copies: NDArray[np.float64]
    consumer_ptr: NDArray[np.int64]
    consumer_op: NDArray[np.int64]
    touch_ptr: NDArray[np.int64]
    touch_value: NDArray[np.int64]
    produces: NDArray[np.int64]
    timed: bool

    @property
    def num_ops(self) -> int:
        return int(self.total_s.shape[1])


class Arcs(NamedTuple):
    """The arcs of a graph of N ops.

    Attributes:
        before_ptr, before: ``[N + 1]``, flat: predecessors of each op.
        after_ptr, after: the same of the successors.
    """

    before_ptr: NDArray[np.int64]
    before: NDArray[np.int64]
    after_ptr: NDArray[np.int64]
    after: NDArray[np.int64]


def graph_arcs(graph: OpGraph) -> Arcs:
    """The arcs of a graph."""
    return Arcs(*offset_rows(graph.predecessors), *offset_rows(graph.successors))


@per_problem
def op_arrays(problem: PlanningProblem) -> OpArrays:
    """The arrays of a problem. Values are sorted by producer, name and phase."""
    graph, values, times = problem.graph, problem.graph.values, problem_times(problem)
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
    return OpArrays(
        forward_s=times.forward_s,
        total_s=times.total_s,
        param_bytes=graph.op_trained_bytes,
        fixed_bytes=op_fixed_bytes(graph, problem.training),
        saved_bytes=graph.op_saved_bytes,
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
