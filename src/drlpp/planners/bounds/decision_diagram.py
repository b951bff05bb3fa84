"""Which set of devices runs each group of ops, one group after another, so that no load exceeds T: a decision diagram.

Groups come in a row. Each takes a set of devices (its replicas), which bears the group's time over their number and
its gradient exchange; where the sets of two neighbours differ, the values between them are moved. A *satellite* is a
group that exchanges values with the last main group before it. One more group at a time may be *held*: later groups
move what they exchange with it.

The diagram is built layer by layer: a state holds the load of every device, the set of the last main group and the set
of the group that is held. Devices of one type are alike, so a state is kept with its loads sorted. States die where a
load exceeds T, where all loads together and the least that the groups to come add exceed what all devices may bear,
and where another state is better in everything. What is left of a device that can run no group any more is lost: it
counts in the sum, as far as it exceeds what ops outside the row may put there. A layer that is too wide is coarsened:
states whose loads are alike become one with the smaller of each load (a *relaxed* diagram; Andersen et al., "A
Constraint Store Based on Multivalued Decision Diagrams", CP 2007). So "no" is a proof that no sets keep all loads
below T, at any width; "yes" comes with sets that do, up to what coarsening hid. To find sets, states are dropped
instead (a *restricted* diagram; Bergman et al., "Decision Diagrams for Optimization", 2016): then "yes" is sure.

Transfers: replica i of r runs the micro-batches m with m mod r = i. Of two sets of r and s, a common device keeps at
most 1 / lcm(r, s) of the micro-batches for itself, so it moves at least ``1/r + 1/s - 2/lcm``; a device in one set
only moves its whole share. The same set costs nothing. In the order that is best for one pair, these are exact.

The search is compiled (``src/native/planners/bounds``): ``decision_diagram`` goes through the row, ``diagram_layer``
makes one layer, ``diagram_states`` joins and drops states, ``completion_bound`` is what the groups to come add.

Left out: unequal shares of replicas, with which loads may be smaller than equal ones allow; the order of devices in a
set, hosts (every transfer takes the fastest link), latencies, memory.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.device_loads import LONGEST_PERIOD
from drlpp.native import library
from drlpp.planners.base import Budget

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
TOLERANCE = 1e-9
"""Part of T that a load may exceed it by, against the rounding of sums."""


class Hold(enum.IntEnum):
    """What happens to the held group once a group of the row has run."""

    NOTHING = -1
    """No group is held."""
    KEEP = 0
    """What was held is held on."""
    START = 1
    """This group is held from now on."""
    KEEP_IF_SAME = 2
    """What was held is held on if this group has the devices of the main group before it."""


@dataclasses.dataclass(frozen=True)
class Row:
    """G groups in a row and the devices, T types, at most R replicas.

    Attributes:
        seconds: ``[T, G]`` per micro-batch on one device of each type.
        param_bytes: ``[G]``.
        moved_s: ``[G]`` seconds, at either end, of moving all that is exchanged with the main group before.
        satellite: ``[G]`` bool; the first group is none.
        beside_s: ``[G]`` the same with the group that is held.
        held: ``[G]`` of `Hold`.
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
        pairs = bool(np.isin(self.held, (Hold.START, Hold.KEEP_IF_SAME)).any())
        return math.prod(math.comb(int(n) + 3, 3) if pairs else int(n) + 1 for n in self.count)


class Overlap(NamedTuple):
    """What devices of neighbouring sets have in common.

    Attributes:
        share: ``[R + 1]`` least part of the micro-batches that one replica of r runs.
        kept: ``[R + 1, R + 1]`` largest part that a device in a set of r and in one of s keeps for itself.
    """

    share: Floats
    kept: Floats


def overlap(most: int, period: int = LONGEST_PERIOD) -> Overlap:
    """The overlap of sets of up to `most` devices.

    A device in sets of r and s keeps 1 / lcm(r, s) of the micro-batches. Where the evaluator cuts a period short
    (after `period` micro-batches), 1 / period is granted on top.
    """
    slip = 0.0 if math.lcm(*range(1, most + 1)) <= period else 1.0 / period
    number = np.arange(most + 1)
    share = np.where(number > 0, 1.0 / np.maximum(number, 1) - slip, 0.0)
    kept = 1.0 / np.maximum(1, np.lcm.outer(number, number)) + slip
    return Overlap(share, kept)


class Question(NamedTuple):
    """What is asked about a row.

    Attributes:
        bound_s: largest load of a device.
        tolerance: part of the bound that a load may exceed it by.
        capacity: weighted seconds of all devices in a second.
        width: most states of a layer.
        most_ways: how many ways to return, those with the smallest largest load first.
        relaxed: states that are too many are joined; if not, they are dropped.
    """

    bound_s: float
    tolerance: float
    capacity: float
    width: int
    most_ways: int
    relaxed: bool


def find_sets(
    row: Row, bound_s: float, width: int, budget: Budget, most_ways: int = 1, relaxed: bool = True
) -> list[list[tuple[int, ...]]] | None:
    """Ways to give the groups sets of devices (numbered by type) that keep all loads at most `bound_s`.

    Args:
        width: most states of a layer, or `Row.num_kinds_of_set` if that is more.
        budget: looked at several times in each layer.
        most_ways: how many ways to return, those with the smallest largest load first.
        relaxed: states that are too many are joined: ways may seem better than they are, and that there is none is a
            proof. If not, they are dropped: the ways are what they seem, and some may be missed.

    Returns:
        The ways, one set per group; empty: there is none; None: the budget was spent before the answer.
    """
    question = Question(
        bound_s=bound_s,
        tolerance=TOLERANCE,
        capacity=float(row.count @ row.weight),
        width=max(width, row.num_kinds_of_set),  # states with different kinds of sets cannot be joined
        most_ways=most_ways,
        relaxed=relaxed,
    )
    search = library.SetSearch(row, overlap(len(row.exchange) - 1), question)
    while not search.advance():
        if budget.spent:
            return None
    return [[tuple(devices) for devices in way] for way in search.ways()]
