"""Orders of the ops that the partitioner can take as they are, beside the walk that it makes itself.

- *graph*: the graph's own.
- *branches*: depth first, and of several branches the last one first.
- *late*: depth first from the end, so that every op comes as late as its branch allows.
- *narrow*: of the ready ops the one that adds the fewest live bytes, so that good cuts are cheap.
- *narrow-back*: the same from the end of the graph.
"""

from __future__ import annotations

import numba
import numpy as np

from drlpp.agent.view.device_classes import Ints, Tables
from drlpp.graph import OpGraph
from drlpp.planners.space.op_orders import depth_first, reversed_depth_first

FIXED_ORDERS = ("graph", "branches", "late", "narrow", "narrow-back")


def fixed_orders(graph: OpGraph, t: Tables) -> Ints:
    """``[len(FIXED_ORDERS), n]`` topological orders; some may be equal."""
    n = t.num_ops
    return np.stack(
        [
            np.arange(n),
            depth_first(graph, -np.arange(n, dtype=np.float64)),
            reversed_depth_first(graph, -np.arange(n, dtype=np.float64)),
            _narrow(n, t.succ_ptr, t.succ, t.tensor_ptr, t.tensor_bytes, t.op_tensor_ptr, t.op_tensors),
            _backwards(t),
        ]
    )


def _backwards(t: Tables) -> Ints:
    n = t.num_ops
    before = np.repeat(np.arange(n), np.diff(t.succ_ptr))
    by_op = np.argsort(t.succ, kind="stable")
    pointers = np.concatenate([[0], np.cumsum(np.bincount(t.succ, minlength=n))]).astype(np.int64)
    order = _narrow(n, pointers, before[by_op], t.tensor_ptr, t.tensor_bytes, t.op_tensor_ptr, t.op_tensors)
    return np.ascontiguousarray(order[::-1])


@numba.njit(cache=True)
def _narrow(n, succ_ptr, succ, tensor_ptr, tensor_bytes, op_tensor_ptr, op_tensors):  # type: ignore[no-untyped-def]
    waiting = np.zeros(n, dtype=np.int64)
    for w in succ:
        waiting[w] += 1
    pending = tensor_ptr[1:] - tensor_ptr[:-1]
    ready = [v for v in range(n) if waiting[v] == 0]
    order = np.empty(n, dtype=np.int64)
    for i in range(n):
        best, least = 0, np.inf
        for k in range(len(ready)):
            v = ready[k]
            change = 0.0
            for x in range(op_tensor_ptr[v], op_tensor_ptr[v + 1]):
                q = op_tensors[x]
                if pending[q] == tensor_ptr[q + 1] - tensor_ptr[q]:
                    change += tensor_bytes[q]
                elif pending[q] == 1:
                    change -= tensor_bytes[q]
            if change < least:
                best, least = k, change
        v = ready.pop(best)
        order[i] = v
        for x in range(op_tensor_ptr[v], op_tensor_ptr[v + 1]):
            pending[op_tensors[x]] -= 1
        for x in range(succ_ptr[v], succ_ptr[v + 1]):
            waiting[succ[x]] -= 1
            if waiting[succ[x]] == 0:
                ready.append(succ[x])
    return order
