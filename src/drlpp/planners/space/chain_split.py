"""The split of a sequence into stages in order whose largest load is smallest, among those that fit the memory.

A stage takes a run of the sequence; its load is the seconds of the run on the stage's device, and its memory is what
is resident, what micro-batches in flight keep, and what they receive at its beginning. Under a bound on the load, each
stage in turn takes the longest run that it can. Where that leaves a stage with an item too large for it, a shorter run
before it may help: then all ends that each stage can reach are looked at, if they are not too many. The bound is found
by bisection. Sizes add up along the sequence, so what two items share counts once only where both are in one stage: an
estimate, which a simulation judges.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import PlanError

_HALVINGS = 40
_MOST_ENDS = 30_000
"""Items times stages, at most, for which all ends are looked at."""


@dataclasses.dataclass(frozen=True)
class ChainLoads:
    """What n items cost in S stages; sums run along the sequence and begin with 0.

    Attributes:
        seconds: ``[S, n + 1]`` sums of the load of the items on the device of each stage.
        resident_bytes, activation_bytes: ``[n + 1]`` sums of what stays, and of what one micro-batch in flight keeps.
        boundary_bytes: ``[n]`` what one micro-batch receives where a stage begins with the item.
        capacity_bytes: ``[S]`` memory.
        kept, received: ``[S]`` micro-batches that keep activations, and whose inputs are kept.
    """

    seconds: NDArray[np.float64]
    resident_bytes: NDArray[np.float64]
    activation_bytes: NDArray[np.float64]
    boundary_bytes: NDArray[np.float64]
    capacity_bytes: NDArray[np.float64]
    kept: NDArray[np.float64]
    received: NDArray[np.float64]

    @property
    def num_stages(self) -> int:
        return len(self.capacity_bytes)

    @property
    def num_items(self) -> int:
        return len(self.boundary_bytes)

    @property
    def most_s(self) -> float:
        """No stage takes longer than this, whatever the split."""
        return float(self.seconds[:, -1].max())

    @property
    def most_bytes(self) -> float:
        """No stage needs more memory than this, whatever the split."""
        whole = self.resident_bytes[-1] + self.kept.max() * self.activation_bytes[-1]
        return float(whole + self.received.max() * self.boundary_bytes.max())


class ChainSplit(NamedTuple):
    """The first item of each stage, and the largest excess over a stage's memory (0 if it fits)."""

    starts: tuple[int, ...]
    excess_bytes: float


def split_chain(loads: ChainLoads) -> ChainSplit:
    """The best split in which every stage has an item; if none fits the memory, the one that exceeds it least.

    Raises:
        PlanError: there are fewer items than stages.
    """
    fitting = fitting_split(loads)
    if fitting is not None:
        return ChainSplit(fitting, 0.0)
    one_each = tuple(range(loads.num_stages))
    excess, nearest = _tightest(lambda excess: _fill(loads, math.inf, excess), loads.most_bytes, one_each)
    return ChainSplit(nearest, excess)


def fitting_split(loads: ChainLoads) -> tuple[int, ...] | None:
    """The first items of the stages of the best split that fits the memory; None if none does. Raises as above."""
    if loads.num_items < loads.num_stages:
        raise PlanError(f"{loads.num_items} items make no {loads.num_stages} stages: ask for fewer stages")
    some = _fill(loads, math.inf, 0.0)
    return None if some is None else _tightest(lambda bound_s: _fill(loads, bound_s, 0.0), loads.most_s, some)[1]


def _tightest(
    fill: Callable[[float], tuple[int, ...] | None], loosest: float, split: tuple[int, ...]
) -> tuple[float, tuple[int, ...]]:
    """About the least value for which there is a split, and that split. Args: `split`: one for `loosest`."""
    low, best = 0.0, (loosest, split)
    for _ in range(_HALVINGS):
        middle = (low + best[0]) / 2
        found = fill(middle)
        low, best = (middle, best) if found is None else (low, (middle, found))
    return best


def _fill(loads: ChainLoads, bound_s: float, excess: float) -> tuple[int, ...] | None:
    """The first items of stages below a bound; None if none were found."""
    longest = _longest_runs(loads, bound_s, excess)
    if longest is None and loads.num_items * loads.num_stages <= _MOST_ENDS:
        return _any_runs(loads, bound_s, excess)
    return longest


def _longest_runs(loads: ChainLoads, bound_s: float, excess: float) -> tuple[int, ...] | None:
    """The first items of stages that each take as long a run as they can; None if one has no room or items are left."""
    starts, begin, n = [], 0, loads.num_items
    for s in range(loads.num_stages):
        starts.append(begin)
        end = int(_longest_end(loads, s, np.array([begin]), bound_s, excess)[0])
        if end <= begin:
            return None
        begin = end
    return tuple(starts) if begin == n else None


def _any_runs(loads: ChainLoads, bound_s: float, excess: float) -> tuple[int, ...] | None:
    """The first items of stages that can take their runs, whatever the lengths; None if there are no such stages."""
    n, begins = loads.num_items, np.array([0])
    reached: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # of each stage: where it may begin, longest ends
    for s in range(loads.num_stages):
        ends = _longest_end(loads, s, begins, bound_s, excess)
        reached.append((begins, ends))
        change = np.zeros(n + 2, dtype=np.int64)
        can = ends > begins
        np.add.at(change, begins[can] + 1, 1)
        np.add.at(change, ends[can] + 1, -1)
        begins = np.flatnonzero(np.cumsum(change[: n + 1]) > 0)
    if n not in begins:
        return None
    starts, end = [], n
    for begins, ends in reversed(reached):
        end = int(begins[(begins < end) & (ends >= end)][-1])
        starts.append(end)
    return tuple(reversed(starts))


def _longest_end(
    loads: ChainLoads, s: int, begins: NDArray[np.int64], bound_s: float, excess: float
) -> NDArray[np.int64]:
    """How far stage s can go from each beginning, with an item left for each later stage."""
    seconds, held = loads.seconds[s], loads.resident_bytes + loads.kept[s] * loads.activation_bytes
    begins = np.minimum(begins, loads.num_items - 1)
    room = loads.capacity_bytes[s] + excess - loads.received[s] * loads.boundary_bytes[begins]
    ends = np.minimum(
        np.searchsorted(seconds, seconds[begins] + bound_s, side="right") - 1,
        np.searchsorted(held, held[begins] + room, side="right") - 1,
    )
    return np.asarray(np.minimum(ends, loads.num_items - (loads.num_stages - 1 - s)), dtype=np.int64)


def crossing_bytes(ends: NDArray[np.int64], sizes: NDArray[np.float64], num_items: int) -> NDArray[np.float64]:
    """``[num_items]`` bytes that a stage receives which begins with the item.

    Args:
        ends: ``[V, 2]`` first item that has a tensor, and last item that reads it.
        sizes: ``[V]`` bytes of each tensor.
    """
    change = np.zeros(num_items + 1)
    np.add.at(change, ends[:, 0] + 1, sizes)
    np.add.at(change, ends[:, 1] + 1, -sizes)
    return np.asarray(np.maximum(np.cumsum(change)[:num_items], 0.0))


def run_loads(loads: ChainLoads, starts: tuple[int, ...]) -> list[float]:
    """Seconds of each stage of a split."""
    ends = (*starts, loads.num_items)
    return [float(row[b] - row[a]) for row, (a, b) in zip(loads.seconds, itertools.pairwise(ends), strict=True)]
