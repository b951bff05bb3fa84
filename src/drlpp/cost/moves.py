"""What has to move when one plan takes the place of another in the middle of a training: parameters, their states
and buffers.

A device that is to hold a parameter, and holds it already, keeps it. Others get it from a device that holds it, on the
same host if there is one. Left out: buffers, which are small; what moves at the same time on one link beyond the sum of
the bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from drlpp.cluster import Cluster
from drlpp.cost.links import transfer_s
from drlpp.cost.optimizer_state import state_bytes
from drlpp.plan import Plan


def source(holders: Sequence[int], dst: int, cluster: Cluster) -> int:
    """The device among those that hold something from which another one gets it."""
    host = cluster.devices[dst].host
    near = [d for d in holders if cluster.devices[d].host == host]
    among = near or list(holders)
    return among[dst % len(among)]


def parameter_holders(plan: Plan) -> Mapping[str, tuple[int, ...]]:
    """Name of a parameter or buffer -> devices that hold it."""
    table = plan.graph.param_table
    stages = plan.stage_of_op[table.reader]
    found: dict[int, set[int]] = defaultdict(set)
    for item, stage in zip(table.item.tolist(), stages.tolist(), strict=True):
        found[item].update(plan.stages[stage].devices)
    return {name: tuple(sorted(found[i])) for name, i in table.position.items() if i in found}


def moved_bytes(old: Plan, new: Plan) -> dict[tuple[int, int], float]:
    """(from, to) -> bytes of parameters, the states of their optimizer and buffers that move between two devices."""
    state = state_bytes(old.graph, old.training)
    table = old.graph.param_table
    sizes = table.bytes * (state.parameter + state.states * old.graph.param_is_trained)
    before, after = parameter_holders(old), parameter_holders(new)
    moved: dict[tuple[int, int], float] = defaultdict(float)
    for name, devices in after.items():
        for dst in devices:
            if dst not in before[name]:
                moved[source(before[name], dst, old.cluster), dst] += float(sizes[table.position[name]])
    return dict(moved)


def move_s(cluster: Cluster, moved: Mapping[tuple[int, int], float]) -> float:
    """Seconds of the move: those of the busiest port of a host, or of the busiest channel inside one."""
    busy: dict[tuple[str, int, int], float] = defaultdict(float)
    for (src, dst), size in moved.items():
        a, b = cluster.devices[src].host, cluster.devices[dst].host
        seconds = transfer_s(cluster.path(src, dst), size)
        if a == b:
            busy["inside", src, dst] += seconds
        else:
            busy["out", a, 0] += seconds
            busy["in", b, 0] += seconds
    return max(busy.values(), default=0.0)
