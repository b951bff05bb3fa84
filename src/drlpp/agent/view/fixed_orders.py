"""Orders of the ops that the partitioner can take as they are, beside the walk that it makes itself.

- *graph*: the graph's own.
- *branches*: depth first, and of several branches the last one first.
- *late*: depth first from the end, so that every op comes as late as its branch allows.
- *narrow*: of the ready ops the one that adds the fewest live bytes, so that good cuts are cheap.
- *narrow-back*: the same from the end of the graph.
"""

from __future__ import annotations

import numpy as np

from drlpp.agent.view.device_classes import Ints, Tables
from drlpp.graph import OpGraph
from drlpp.native import library
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
            library.narrow_order(t, backwards=False),
            library.narrow_order(t, backwards=True),
        ]
    )
