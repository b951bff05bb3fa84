"""Which set of devices runs each group of ops, one group after another, so that no load exceeds T: a decision diagram.

Groups come in a row. Each takes a set of devices (its replicas), which bears the group's time over their number and
its gradient exchange; where the sets of two neighbours differ, the values between them are moved. A *satellite* is a
group that exchanges values with the last main group before it. One more group at a time may be *held*: later groups
move what they exchange with it.

The diagram is built layer by layer: a state holds the load of every device, the set of the last main group and the set
of the group that is held. Devices of one type are alike, so a state is kept with its loads sorted. States die where a
load exceeds T, where all loads together and the least that the groups to come add exceed what all devices may bear
(`set_rest`), and where another state is better in everything. What is left of a device that can run no group any more
is lost: it counts in the sum, as far as it exceeds what ops outside the row may put there. A layer that is too wide is
coarsened: states whose loads are alike become one with the smaller of each load (a *relaxed* diagram; Andersen et al.,
"A Constraint Store Based on Multivalued Decision Diagrams", CP 2007). So "no" is a proof that no sets keep all loads
below T, at any width; "yes" comes with sets that do, up to what coarsening hid. To find sets, states are dropped
instead (a *restricted* diagram; Bergman et al., "Decision Diagrams for Optimization", 2016): then "yes" is sure.

Transfers: replica i of r runs the micro-batches m with m mod r = i. Of two sets of r and s, a common device keeps at
most 1 / lcm(r, s) of the micro-batches for itself, so it moves at least ``1/r + 1/s - 2/lcm``; a device in one set
only moves its whole share. The same set costs nothing. In the order that is best for one pair, these are exact.

Left out: the order of devices in a set, hosts (every transfer takes the fastest link), latencies, memory.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from drlpp.planners.base import Budget
from drlpp.planners.bounds.completion_bound import least_between, rest_of_row, to_come
from drlpp.planners.bounds.diagram_layer import Costs, next_layer
from drlpp.planners.bounds.diagram_states import Floats, Ints, States
from drlpp.sim.bottleneck import LONGEST_PERIOD

TOLERANCE = 1e-9
FIRST_CELL = 1e-3
"""Width of a cell of loads in units of T at the beginning of a layer."""


@dataclasses.dataclass(frozen=True)
class Row:
    """G groups in a row and the devices, T types, at most R replicas.

    Attributes:
        seconds: ``[T, G]`` per micro-batch on one device of each type.
        param_bytes: ``[G]``.
        moved_s: ``[G]`` seconds, at either end, of moving all that is exchanged with the main group before.
        satellite: ``[G]`` bool; the first group is none.
        beside_s: ``[G]`` the same with the group that is held.
        held: ``[G]`` 1: the group is held from then on; 0: what was held still is; 2: it still is if this group has
            the devices of the main group before; -1: none is.
        exchange: ``[R + 1]`` seconds per byte and micro-batch of a gradient exchange over r replicas.
        count: ``[T]`` devices of each type.
        weight: ``[T]`` of a second on each type, in sums over devices.
        between_s: ``[T, G]`` seconds of what was taken out of the row between the main group before and this one.
        apart: weighted seconds that ops outside the row add to the sum, wherever they run, these among them.
    """

    seconds: Floats
    param_bytes: Floats
    moved_s: Floats
    satellite: NDArray[np.bool_]
    beside_s: Floats
    held: Ints
    exchange: Floats
    count: Ints
    weight: Floats
    between_s: Floats
    apart: float

    @property
    def num_groups(self) -> int:
        return len(self.param_bytes)

    @property
    def num_kinds_of_set(self) -> int:
        """Sets, or pairs of sets where groups are held, that differ in the number of devices of some type."""
        pairs = bool((self.held > 0).any())
        return math.prod(math.comb(int(n) + 3, 3) if pairs else int(n) + 1 for n in self.count)


def overlap(most: int, period: int = LONGEST_PERIOD) -> tuple[Floats, Floats]:
    """``[R + 1]`` least part of the micro-batches of one replica of r, and ``[R + 1, R + 1]`` the most that a device
    in sets of r and s has in common: 1 / lcm, and a little for periods that the evaluator cuts short."""
    slip = 0.0 if math.lcm(*range(1, most + 1)) <= period else 1.0 / period
    number = np.arange(most + 1)
    share = np.where(number > 0, 1.0 / np.maximum(number, 1) - slip, 0.0)
    kept = 1.0 / np.maximum(1, np.lcm.outer(number, number)) + slip
    return share, kept


def find_sets(
    row: Row, bound_s: float, width: int, budget: Budget, most_ways: int = 1, relaxed: bool = True
) -> list[list[tuple[int, ...]]] | None:
    """Ways to give the groups sets of devices (numbered by type) that keep all loads at most `bound_s`.

    Args:
        width: most states of a layer, or `Row.num_kinds_of_set` if that is more.
        budget: looked at in each layer (`set_layers.next_layer`).
        most_ways: how many ways to return, those with the smallest largest load first.
        relaxed: states that are too many are joined: ways may seem better than they are, and that there is none is a
            proof. If not, they are dropped: the ways are what they seem, and some may be missed.

    Returns:
        The ways, one set per group; empty: there is none; None: the budget was spent before the answer.
    """
    width = max(width, row.num_kinds_of_set)  # states with different kinds of sets cannot be joined
    most = len(row.exchange) - 1
    share, kept = overlap(most)
    total = int(row.count.sum())
    limit = bound_s * (1 + TOLERANCE)
    used = row.count > 0
    between = least_between(row.between_s, row.moved_s, share, kept)
    rest = rest_of_row(
        (row.seconds * row.weight[:, None])[used].min(axis=0),
        np.where(used[:, None], row.seconds, np.inf),
        row.param_bytes,
        row.moved_s,
        row.satellite,
        row.exchange,
        share,
        kept,
        between,
        float(row.weight[used].min()),
        total,
    )
    start, least = np.empty((row.num_groups + 1, most + 1)), np.empty((row.num_groups, most + 1, row.num_groups))
    if row.num_groups:
        to_come(rest, 0, np.full(most + 1, limit), start, least)
    states = States(
        np.zeros((1, total)),
        np.zeros(1),
        np.zeros(1),
        np.zeros(1),
        np.kron(row.count, [0, 0, 0, 1])[None, :],
        np.zeros(1, dtype=np.int64),
        np.zeros((1, total), dtype=np.int64),
        np.zeros((1, total), dtype=np.bool_),
    )
    layers = []
    for g in range(row.num_groups):
        costs = Costs(
            np.ascontiguousarray(row.seconds[:, g]),
            float(row.param_bytes[g]),
            float(row.moved_s[g]),
            bool(row.satellite[g]),
            float(row.beside_s[g]),
            int(row.held[g]),
            row.exchange,
            share,
            kept,
            row.weight,
            least[g],
            g,
            limit,
            float(row.count @ row.weight) * limit,
            np.ascontiguousarray(between[:, g]),
            row.apart,
        )
        layer = next_layer(states, costs, rest, width, bound_s * FIRST_CELL, relaxed, budget)
        if layer is None:
            return None
        if not len(layer.total):
            return []
        layers.append(layer)
        states = layer
    if not layers:
        return [[]]
    last = np.argsort(layers[-1].load.max(axis=1), kind="stable")[:most_ways]
    return [_trace(layers, total, int(i)) for i in last]


def _trace(layers: list[States], num_devices: int, at: int) -> list[tuple[int, ...]]:
    """The sets on the way to state `at` of the last layer."""
    way = []
    for states in reversed(layers):
        way.append(at)
        at = int(states.parent[at])
    device = np.arange(num_devices)
    sets = []
    for states, i in zip(layers, reversed(way), strict=True):
        device = device[states.origin[i]]
        sets.append(tuple(sorted(device[states.chosen[i]].tolist())))
    return sets
