"""Which set of devices runs each group of ops, one group after another, so that no load exceeds T: a decision diagram.

Groups come in a row. Each takes a set of devices (its replicas), which bears the group's time over their number and
its gradient exchange; where the sets of two neighbours differ, the values between them are moved. A *satellite* is a
group that exchanges values with the last main group before it. One more group at a time may be *held*: later groups
move what they exchange with it.

The diagram is built layer by layer: a state holds the load of every device, the set of the last main group and the set
of the group that is held. Devices of one type are alike, so a state is kept with its loads sorted. States die where a
load exceeds T, where all loads together and the least that the groups to come add exceed what all devices may bear
(`_least_to_come`), and where another state is better in everything. A layer that is too wide is coarsened: states
whose loads are alike become one with the smaller of each load (a *relaxed* diagram; Andersen et al., "A Constraint
Store Based on Multivalued Decision Diagrams", CP 2007). So "no" is a proof that no sets of devices keep all loads
below T, at any width; "yes" comes with sets that do, up to what coarsening hid.

Transfers: replica i of r runs the micro-batches m with m mod r = i. Of two sets of r and s, a common device keeps at
most 1 / lcm(r, s) of the micro-batches for itself, so it moves at least ``1/r + 1/s - 2/lcm``; a device in one set
only moves its whole share. The same set costs nothing. In the order that is best for one pair, these are exact.

Left out: the order of devices in a set, hosts (every transfer takes the fastest link), latencies, memory.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drlpp.planners.base import Budget
from drlpp.sim.bottleneck import LONGEST_PERIOD

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
TOLERANCE = 1e-9
MAX_CHOICES = 256
"""Sets that one state may choose from; devices with the closest loads count as alike where there would be more."""
FIRST_CELL, GROWTH = 1e-3, 1.3
"""Width of a cell of loads in units of T when a layer is first coarsened, and the factor while it is too wide."""


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
        apart: weighted seconds that ops outside the row add to the sum, wherever they run.
    """

    seconds: _Floats
    param_bytes: _Floats
    moved_s: _Floats
    satellite: NDArray[np.bool_]
    beside_s: _Floats
    held: _Ints
    exchange: _Floats
    count: _Ints
    weight: _Floats
    apart: float

    @property
    def num_groups(self) -> int:
        return len(self.param_bytes)

    @property
    def num_kinds_of_set(self) -> int:
        """Sets, or pairs of sets where groups are held, that differ in the number of devices of some type."""
        pairs = bool((self.held > 0).any())
        return math.prod(math.comb(int(n) + 3, 3) if pairs else int(n) + 1 for n in self.count)


class _States(NamedTuple):
    """States of a layer, n of them in rows 0 .. n - 1.

    Attributes:
        load: ``[n, D]`` by type; in a type, by part; each part sorted.
        total: ``[n]`` weighted sum of what was put on the devices.
        parts: ``[n, 4 T]`` devices of each type in the set of the last main group and in that of the held one; in the
            first only; in the second only; in neither.
        parent: ``[n]`` state of the layer before.
        origin: ``[n, D]`` place of the device in the parent.
        chosen: ``[n, D]`` the device runs this layer's group.
    """

    load: _Floats
    total: _Floats
    parts: _Ints
    parent: _Ints
    origin: _Ints
    chosen: NDArray[np.bool_]


class _Costs(NamedTuple):
    """What one layer needs to know; see `Row`."""

    seconds: _Floats
    param_bytes: float
    moved_s: float
    satellite: bool
    beside_s: float
    held: int
    exchange: _Floats
    share: _Floats
    kept: _Floats
    weight: _Floats
    to_come: _Floats
    prefix_s: _Floats
    prefix_bytes: _Floats
    group: int
    limit: float
    room: float


def overlap(most: int, period: int = LONGEST_PERIOD) -> tuple[_Floats, _Floats]:
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
        budget: looked at before each layer.
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
    fastest = row.seconds[row.count > 0].min(axis=0)
    to_come = _least_to_come(
        (row.seconds * row.weight[:, None])[row.count > 0].min(axis=0),
        fastest,
        row.param_bytes,
        row.moved_s,
        row.satellite,
        row.exchange,
        share,
        kept,
        float(row.weight[row.count > 0].min()),
        limit,
        row.apart,
        total,
    )
    main = np.where(row.satellite, 0.0, 1.0)
    seconds, size = (np.concatenate(([0.0], np.cumsum(main * x))) for x in (fastest, row.param_bytes))
    states = _States(
        np.zeros((1, total)),
        np.zeros(1),
        np.kron(row.count, [0, 0, 0, 1])[None, :],
        np.zeros(1, dtype=np.int64),
        np.zeros((1, total), dtype=np.int64),
        np.zeros((1, total), dtype=np.bool_),
    )
    layers = []
    cell = bound_s * FIRST_CELL
    for g in range(row.num_groups):
        if budget.spent:
            return None
        costs = _Costs(
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
            to_come[g],
            seconds,
            size,
            g,
            limit,
            float(row.count @ row.weight) * limit,
        )
        states, cell = _next_layer(states, costs, width, cell, relaxed)
        if not len(states.total):
            return []
        layers.append(states)
    if not layers:
        return [[]]
    last = np.argsort(layers[-1].load.max(axis=1), kind="stable")[:most_ways]
    return [_trace(layers, total, int(i)) for i in last]


def _trace(layers: list[_States], num_devices: int, at: int) -> list[tuple[int, ...]]:
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


@njit(cache=True)
def _least_to_come(
    weighted: _Floats,
    fastest: _Floats,
    params: _Floats,
    moved: _Floats,
    satellite: NDArray[np.bool_],
    exchange: _Floats,
    share: _Floats,
    kept: _Floats,
    least: float,
    limit: float,
    apart: float,
    devices: int,
) -> _Floats:
    """``[G, R + 1, G]`` least weighted load after group g, if r devices run it and go on up to group j at most.

    The rest is cut in *runs* of groups with the same devices, none of which may exceed the limit. A satellite runs
    where its main group does, or elsewhere; its load is not counted in the run.
    """
    num, most = len(weighted), len(exchange) - 1
    stay = np.zeros((num + 1, most + 1))  # [g, r]: groups before g with r devices
    seconds, size = np.zeros(num + 1), np.zeros(num + 1)
    for g in range(num):
        main = 0.0 if satellite[g] else 1.0
        seconds[g + 1], size[g + 1] = seconds[g] + main * fastest[g], size[g] + main * params[g]
        for r in range(1, most + 1):
            best = weighted[g] + r * exchange[r] * params[g] * least
            if satellite[g]:
                for q in range(1, most + 1):
                    move = moved[g] * least * _moved_in_all(share, kept, r, q, devices)
                    best = min(best, weighted[g] + q * exchange[q] * params[g] * least + move)
            stay[g + 1, r] = stay[g, r] + best
    start = np.full(
        (num + 1, most + 1), np.inf
    )  # [g, r]: to come if a new run begins at group g after one of r devices
    start[num] = apart
    out = np.full((num, most + 1, num), np.inf)
    for g in range(num - 1, -1, -1):
        for r in range(1, most + 1):
            best = np.inf
            for j in range(g, num):  # the run goes on up to group j
                if j + 1 == num or not satellite[j + 1]:
                    best = min(best, stay[j + 1, r] - stay[g + 1, r] + start[j + 1, r])
                out[g, r, j] = best
        if satellite[g] or g == 0:
            continue
        for r in range(1, most + 1):
            best = np.inf
            for q in range(1, most + 1):
                if q == r == devices:
                    continue
                enter = share[q] if q >= r else min(share[q], max(0.0, share[r] + share[q] - 2 * kept[r, q]))
                enter *= moved[g]
                room = limit - enter - fastest[g] / q - exchange[q] * params[g]
                if room < 0:
                    continue
                j = _last_of_run(seconds, size, g, q, exchange[q], room)
                own = stay[g + 1, q] - stay[g, q] + moved[g] * least * _moved_in_all(share, kept, r, q, devices)
                best = min(best, own + out[g, q, j])
            start[g, r] = best
    return out


@njit(cache=True)
def _last_of_run(seconds: _Floats, size: _Floats, g: int, r: int, exchange: float, room: float) -> int:
    """The last group up to which r devices with so much room can go on after group g."""
    low, high = g, len(seconds) - 2
    while low < high:
        middle = (low + high + 1) // 2
        if (seconds[middle + 1] - seconds[g + 1]) / r + exchange * (size[middle + 1] - size[g + 1]) <= room:
            low = middle
        else:
            high = middle - 1
    return low


@njit(cache=True)
def _moved_in_all(share: _Floats, kept: _Floats, r: int, q: int, devices: int) -> float:
    """Part of the micro-batches moved between different sets of r and q devices, at both ends together."""
    common = min(r, q)
    if r == q:
        if r == devices:
            return 0.0
        common -= 1
    return max(0.0, float(r * share[r] + q * share[q] - 2 * common * kept[r, q]))


@njit(cache=True)
def _alike(states: _States, i: int, types: int) -> tuple[_Floats, _Ints, _Ints, _Ints, int]:
    """Classes of devices with one part and load: load, size, part (as in `_States.parts`), first place; how many."""
    devices = states.load.shape[1]
    load, size, first = np.empty(devices), np.zeros(devices, dtype=np.int64), np.zeros(devices, dtype=np.int64)
    part = np.zeros(devices, dtype=np.int64)
    n, d = 0, 0
    choices = 1.0
    for p in range(4 * types):
        for k in range(states.parts[i, p]):
            if k > 0 and states.load[i, d] == load[n - 1]:
                choices *= (size[n - 1] + 2) / (size[n - 1] + 1)
                size[n - 1] += 1
            else:
                load[n], size[n], part[n], first[n] = states.load[i, d], 1, p, d
                choices *= 2
                n += 1
            d += 1
    while choices > MAX_CHOICES:
        at, least = -1, np.inf
        for c in range(1, n):
            if part[c] == part[c - 1]:
                loss = (load[c] - load[c - 1]) * size[c]
                if loss < least:
                    at, least = c, loss
        if at < 0:
            break
        choices *= (size[at - 1] + size[at] + 1) / ((size[at - 1] + 1) * (size[at] + 1))
        size[at - 1] += size[at]
        for c in range(at, n - 1):
            load[c], size[c], part[c], first[c] = load[c + 1], size[c + 1], part[c + 1], first[c + 1]
        n -= 1
    return load, size, part, first, n


@njit(cache=True)
def _cell_hash(load: _Floats, parts: _Ints, cell: float) -> np.uint64:
    h = np.uint64(1469598103934665603)
    for x in parts:
        h = (h ^ np.uint64(x)) * np.uint64(1099511628211)
    for x in load:
        h = (h ^ np.uint64(np.int64(x / cell))) * np.uint64(1099511628211)
    return h ^ (h >> np.uint64(29))


@njit(cache=True)
def _place(table: _Ints, states: _States, load: _Floats, parts: _Ints, cell: float) -> int:
    """Place in the table of the state with these parts whose loads are in the same cells, or the free one."""
    at = np.int64(_cell_hash(load, parts, cell) & np.uint64(len(table) - 1))
    while table[at] >= 0:
        j = table[at]
        same = True
        for p in range(len(parts)):
            same = same and states.parts[j, p] == parts[p]
        if same:
            for d in range(len(load)):
                if np.int64(states.load[j, d] / cell) != np.int64(load[d] / cell):
                    same = False
                    break
        if same:
            break
        at = (at + 1) & (len(table) - 1)
    return int(at)


@njit(cache=True)
def _lower(states: _States, j: int, load: _Floats, total: float) -> None:
    """State j becomes at most as loaded as another."""
    for d in range(len(load)):
        states.load[j, d] = min(states.load[j, d], load[d])
    states.total[j] = min(states.total[j], total)


@njit(cache=True)
def _meet(states: _States, j: int, i: int, relaxed: bool) -> None:
    """State i meets state j of the same cells: they are joined in row j, or the one with the smaller sum is kept."""
    if relaxed:
        _lower(states, j, states.load[i], states.total[i])
    elif states.total[i] < states.total[j]:
        _copy(states, j, i)


@njit(cache=True)
def _copy(states: _States, j: int, i: int) -> None:
    """State i moves to row j."""
    states.load[j], states.total[j], states.parts[j] = states.load[i], states.total[i], states.parts[i]
    states.parent[j], states.origin[j], states.chosen[j] = states.parent[i], states.origin[i], states.chosen[i]


@njit(cache=True)
def _coarsen(states: _States, n: int, table: _Ints, cell: float, width: int, relaxed: bool) -> tuple[int, float]:
    """Keeps one state of each cell, in ever larger cells until at most `width` are left."""
    while n > width:
        cell *= GROWTH
        table[:] = -1
        left = 0
        for i in range(n):
            at = _place(table, states, states.load[i], states.parts[i], cell)
            if table[at] >= 0:
                _meet(states, table[at], i, relaxed)
            else:
                if left < i:
                    _copy(states, left, i)
                table[at] = left
                left += 1
        n = left
    return n, cell


@njit(cache=True)
def _undominated(states: _States, n: int) -> _Ints:
    """Rows of the states that no other one is better than in everything."""
    order = np.argsort(states.total[:n], kind="mergesort")
    kept = np.empty(n, dtype=np.int64)
    number = 0
    for i in order:
        worse = False
        for k in range(number):
            j = kept[k]
            worse = True
            for p in range(states.parts.shape[1]):
                if states.parts[i, p] != states.parts[j, p]:
                    worse = False
                    break
            if worse:
                for d in range(states.load.shape[1]):
                    if states.load[j, d] > states.load[i, d]:
                        worse = False
                        break
            if worse:
                break
        if not worse:
            kept[number] = i
            number += 1
    return kept[:number]


@njit(cache=True)
def _same(take: _Ints, size: _Ints, inside: NDArray[np.bool_], classes: int) -> bool:
    """Whether the devices taken are those inside."""
    for c in range(classes):  # noqa: SIM110  (compiled)
        if take[c] != (size[c] if inside[c] else 0):
            return False
    return True


@njit(cache=True)
def _moves(
    costs: _Costs, seconds: float, take: _Ints, size: _Ints, inside: NDArray[np.bool_], classes: int, r: int, q: int
) -> tuple[float, float, float]:
    """What a device in both sets, in the new one only, and in the old one only has to move; nothing if they are one."""
    if r == 0 or _same(take, size, inside, classes):
        return 0.0, 0.0, 0.0
    stay = seconds * max(0.0, costs.share[r] + costs.share[q] - 2 * costs.kept[r, q])
    return stay, seconds * costs.share[q], seconds * costs.share[r]


@njit(cache=True)
def _next_layer(states: _States, costs: _Costs, width: int, cell: float, relaxed: bool) -> tuple[_States, float]:
    """The states after one more group, and the width of a cell of loads that the layer needed."""
    devices, types, most = states.load.shape[1], len(costs.weight), len(costs.exchange) - 1
    space = 4 * width
    size_of_table = 1
    while size_of_table < 4 * space:
        size_of_table *= 2
    table = np.full(size_of_table, -1, dtype=np.int64)
    new = _States(
        np.empty((space, devices)),
        np.empty(space),
        np.empty((space, 4 * types), dtype=np.int64),
        np.empty(space, dtype=np.int64),
        np.empty((space, devices), dtype=np.int64),
        np.empty((space, devices), dtype=np.bool_),
    )
    n = 0
    take = np.zeros(devices, dtype=np.int64)
    after = np.empty((2, devices))  # load of each class's devices that are taken, and of the others
    load, parts = np.empty(devices), np.empty(4 * types, dtype=np.int64)
    origin, chosen = np.empty(devices, dtype=np.int64), np.empty(devices, dtype=np.bool_)
    for i in range(len(states.total)):
        before, size, part, first, classes = _alike(states, i, types)
        in_main, in_held = part % 4 < 2, part % 2 == 0
        r, h = size[:classes][in_main[:classes]].sum(), size[:classes][in_held[:classes]].sum()
        take[:] = 0
        while True:
            c = 0  # the next number of devices from each class
            while c < classes and take[c] == size[c]:
                take[c] = 0
                c += 1
            if c == classes:
                break
            take[c] += 1
            q = take[:classes].sum()
            if q > most:
                continue
            stay, enter, leave = _moves(costs, costs.moved_s, take, size, in_main, classes, r, q)
            stay_held, enter_held, leave_held = _moves(costs, costs.beside_s, take, size, in_held, classes, h, q)
            still = costs.held == 0 or (costs.held == 2 and _same(take, size, in_main, classes))
            total = states.total[i]
            fits = True
            for c in range(classes):
                t = part[c] // 4
                taken = costs.seconds[t] / q + costs.exchange[q] * costs.param_bytes
                taken += (stay if in_main[c] else enter) + (stay_held if in_held[c] else enter_held)
                other = (leave if in_main[c] else 0.0) + (leave_held if in_held[c] else 0.0)
                after[0, c], after[1, c] = before[c] + taken, before[c] + other
                if (take[c] > 0 and after[0, c] > costs.limit) or (take[c] < size[c] and after[1, c] > costs.limit):
                    fits = False
                    break
                total += costs.weight[t] * (take[c] * taken + (size[c] - take[c]) * other)
            if not fits:
                continue
            fullest = 0.0  # of the devices that the last main group runs on
            for c in range(classes):
                if costs.satellite and in_main[c]:
                    fullest = max(fullest, after[0, c] if take[c] > 0 else after[1, c])
                elif not costs.satellite and take[c] > 0:
                    fullest = max(fullest, after[0, c])
            main = r if costs.satellite else q
            last = _last_of_run(
                costs.prefix_s, costs.prefix_bytes, costs.group, main, costs.exchange[main], costs.limit - fullest
            )
            if total + costs.to_come[main, last] > costs.room:
                continue
            # sort the devices of each type: by their new parts, each by load
            end = 0
            for p in range(4 * types):
                start = end
                for c in range(classes):
                    if part[c] // 4 != p // 4:
                        continue
                    for k in range(size[c]):
                        is_taken = k < take[c]
                        main_after = in_main[c] if costs.satellite else is_taken
                        held_after = is_taken if costs.held == 1 else (still and in_held[c])
                        if main_after != (p % 4 < 2) or held_after != (p % 2 == 0):
                            continue
                        value = after[0 if is_taken else 1, c]
                        d = end
                        while d > start and load[d - 1] > value:
                            load[d], origin[d], chosen[d] = load[d - 1], origin[d - 1], chosen[d - 1]
                            d -= 1
                        load[d], origin[d], chosen[d] = value, first[c] + k, is_taken
                        end += 1
                parts[p] = end - start
            while True:
                at = _place(table, new, load, parts, cell)
                j = table[at]
                if j >= 0 and relaxed:
                    _lower(new, j, load, total)
                    break
                if j >= 0 and total >= new.total[j]:
                    break
                if j >= 0 or n < space:
                    if j < 0:
                        j = table[at] = n
                        n += 1
                    new.load[j], new.total[j], new.parts[j] = load, total, parts
                    new.parent[j], new.origin[j], new.chosen[j] = i, origin, chosen
                    break
                n, cell = _coarsen(new, n, table, cell, width, relaxed)
    kept = _undominated(new, n)
    out = _States(
        new.load[kept], new.total[kept], new.parts[kept], new.parent[kept], new.origin[kept], new.chosen[kept]
    )
    if len(kept) > width:
        number, cell = _coarsen(out, len(kept), table, cell, width, relaxed)
        out = _States(
            out.load[:number],
            out.total[:number],
            out.parts[:number],
            out.parent[:number],
            out.origin[:number],
            out.chosen[:number],
        )
    return out, cell
