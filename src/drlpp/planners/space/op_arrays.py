"""The planning problem as flat arrays: what the numeric kernels of the planners work on.

A *value* is what one op sends under one name in one phase; it goes once to each device that consumes it. Left out:
which parameters and saved tensors several ops share (they count at their first reader), so memory is an estimate here
and the simulator has the last word.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.op_times import problem_times
from drlpp.graph import OpGraph
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True)
class OpArrays:
    """Arrays of a problem: N ops, T device types, V values.

    Attributes:
        forward_s: ``[T, N]`` forward seconds per micro-batch.
        total_s: ``[T, N]`` forward and backward seconds per micro-batch.
        param_bytes, saved_bytes: ``[N]``, shared ones at their first reader.
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


def _csr(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pointer = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(x) for x in lists], out=pointer[1:])
    return pointer, np.array([x for items in lists for x in items], dtype=np.int64)


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
    return Arcs(*_csr(graph.predecessors), *_csr(graph.successors))


def op_arrays(problem: PlanningProblem) -> OpArrays:
    """The arrays of a problem."""
    graph = problem.graph
    index = graph.index
    consumers: dict[tuple[int, str, str], set[int]] = defaultdict(set)
    gradient: dict[tuple[int, str, str], bool] = defaultdict(bool)
    seconds: dict[tuple[int, str, str], float] = {}
    for e in graph.edges:
        key: tuple[int, str, str] = (index[e.src], e.tensor, e.phase)
        consumers[key].add(index[e.dst])
        gradient[key] |= e.requires_grad
        seconds[key] = e.transfer_s or 0.0
    keys = sorted(consumers)
    timed = graph.has_transfer_times
    copies = np.array([2.0 if gradient[k] else 1.0 for k in keys])
    amount = np.array([seconds[k] if timed else graph.tensor_bytes[k[1]] for k in keys])
    produced: list[list[int]] = [[] for _ in graph.ops]
    consumed: list[list[int]] = [[] for _ in graph.ops]
    for v, key in enumerate(keys):
        produced[key[0]].append(v)
        for op in sorted(consumers[key]):
            consumed[op].append(v)
    consumer_ptr, consumer_op = _csr([sorted(consumers[k]) for k in keys])
    touch_ptr, touch_value = _csr([a + b for a, b in zip(produced, consumed, strict=True)])
    times = problem_times(problem)
    return OpArrays(
        forward_s=times.forward_s,
        total_s=times.total_s,
        param_bytes=graph.op_param_bytes,
        saved_bytes=graph.op_saved_bytes,
        value_src=np.array([k[0] for k in keys], dtype=np.int64),
        value_amount=amount * copies,
        value_copies=copies,
        consumer_ptr=consumer_ptr,
        consumer_op=consumer_op,
        touch_ptr=touch_ptr,
        touch_value=touch_value,
        produces=np.array([len(x) for x in produced], dtype=np.int64),
        timed=timed,
    )
