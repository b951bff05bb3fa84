"""States of a layer of the decision diagram over sets of devices (`device_sets`): loads that are alike, states that are
joined or dropped where they are too many, and states that others are better than."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MAX_CHOICES = 256
"""Sets that one state may choose from; devices with the closest loads count as alike where there would be more."""
MOST_COMPARED = 300
"""Better states that each state is compared with."""
GROWTH = 1.5
"""Factor on the width of a cell of loads while a layer is too wide."""


class States(NamedTuple):
    """States of a layer, n of them in rows 0 .. n - 1.

    Attributes:
        load: ``[n, D]`` by type; in a type, by part; each part sorted.
        total: ``[n]`` weighted sum of what groups put on the devices.
        full: ``[n]`` the same with what was taken out before them, and with what is left of devices that cannot run
            anything any more.
        least: ``[n]`` least sum at the end.
        parts: ``[n, 4 T]`` devices of each type in the set of the last main group and in that of the held one; in the
            first only; in the second only; in neither.
        parent: ``[n]`` state of the layer before.
        origin: ``[n, D]`` place of the device in the parent.
        chosen: ``[n, D]`` the device runs this layer's group.
    """

    load: Floats
    total: Floats
    full: Floats
    least: Floats
    parts: Ints
    parent: Ints
    origin: Ints
    chosen: NDArray[np.bool_]


@njit(cache=True)
def alike(states: States, i: int, types: int) -> tuple[Floats, Ints, Ints, Ints, int]:
    """Classes of devices with one part and load: load, size, part (as in `States.parts`), first place; how many."""
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
def _cell_hash(load: Floats, parts: Ints, cell: float) -> np.uint64:
    h = np.uint64(1469598103934665603)
    for x in parts:
        h = (h ^ np.uint64(x)) * np.uint64(1099511628211)
    for x in load:
        h = (h ^ np.uint64(np.int64(x / cell))) * np.uint64(1099511628211)
    return h ^ (h >> np.uint64(29))


@njit(cache=True)
def place(table: Ints, states: States, load: Floats, parts: Ints, cell: float) -> int:
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
def lower(states: States, j: int, load: Floats, total: float, full: float) -> None:
    """State j becomes at most as loaded as another."""
    for d in range(len(load)):
        states.load[j, d] = min(states.load[j, d], load[d])
    states.total[j] = min(states.total[j], total)
    states.full[j] = min(states.full[j], full)


@njit(cache=True)
def meet(states: States, j: int, i: int, relaxed: bool) -> None:
    """State i meets state j of the same cells: they are joined in row j, or the one with the smaller sum is kept."""
    if relaxed:
        lower(states, j, states.load[i], states.total[i], states.full[i])
        states.least[j] = min(states.least[j], states.least[i])
    elif states.full[i] < states.full[j]:
        copy_state(states, j, i)


@njit(cache=True)
def copy_state(states: States, j: int, i: int) -> None:
    """State i moves to row j."""
    states.load[j], states.parts[j] = states.load[i], states.parts[i]
    states.total[j], states.full[j], states.least[j] = states.total[i], states.full[i], states.least[i]
    states.parent[j], states.origin[j], states.chosen[j] = states.parent[i], states.origin[i], states.chosen[i]


@njit(cache=True)
def rows_of(states: States, numbers: Ints) -> States:
    """Some rows of the states."""
    return States(
        states.load[numbers],
        states.total[numbers],
        states.full[numbers],
        states.least[numbers],
        states.parts[numbers],
        states.parent[numbers],
        states.origin[numbers],
        states.chosen[numbers],
    )


@njit(cache=True)
def coarsen(states: States, n: int, table: Ints, cell: float, width: int, relaxed: bool) -> tuple[int, float]:
    """Keeps one state of each cell, in ever larger cells until at most `width` are left.

    Joined states hide nothing but promise too much: half of them stay as they are, those that may end with the smallest
    sums, and new states are told apart as finely as before. Otherwise cells stay as large as they are then.

    Returns:
        How many are left, and the width of the cells.
    """
    is_exact = np.zeros(n, dtype=np.bool_)
    if relaxed:
        is_exact[np.argsort(states.least[:n], kind="mergesort")[: width // 2]] = True
    larger, largest = cell, states.load[:n].max()
    while n > width:
        if larger > largest:  # one state for each kind of parts is left
            is_exact[:] = False
        larger *= GROWTH
        table[:] = -1
        left = 0
        for i in range(n):
            at = -1
            if not is_exact[i]:
                at = place(table, states, states.load[i], states.parts[i], larger)
                if table[at] >= 0:
                    meet(states, table[at], i, relaxed)
                    continue
            if left < i:
                copy_state(states, left, i)
                is_exact[left] = is_exact[i]
            if at >= 0:
                table[at] = left
            left += 1
        n = left
    if not relaxed:
        return n, larger
    table[:] = -1
    for i in range(n):
        at = place(table, states, states.load[i], states.parts[i], cell)
        if table[at] < 0:
            table[at] = i
    return n, cell


@njit(cache=True)
def undominated(states: States, n: int) -> Ints:
    """Rows of the states that no other one is better than in everything, those with the smallest sum first."""
    order = np.argsort(states.full[:n], kind="mergesort")
    devices = states.load.shape[1]
    numbers = np.full(n, -1, dtype=np.int64)  # first kept state of each kind of parts
    following = np.full(n, -1, dtype=np.int64)  # next kept state with the same parts
    latest = np.empty(n, dtype=np.int64)
    kept = np.empty(n, dtype=np.int64)
    number, kinds = 0, 0
    for i in order:
        kind = 0
        while kind < kinds:
            j = numbers[kind]
            same = True
            for p in range(states.parts.shape[1]):
                if states.parts[i, p] != states.parts[j, p]:
                    same = False
                    break
            if same:
                break
            kind += 1
        worse = False
        if kind == kinds:
            numbers[kind] = latest[kind] = i
            kinds += 1
        else:
            j = numbers[kind]
            tried = 0
            while j >= 0 and tried < MOST_COMPARED:
                tried += 1
                worse = states.total[j] <= states.total[i]
                for d in range(devices if worse else 0):
                    if states.load[j, d] > states.load[i, d]:
                        worse = False
                        break
                if worse:
                    break
                j = following[j]
            if not worse:
                following[latest[kind]] = i
                latest[kind] = i
        if not worse:
            kept[number] = i
            number += 1
    return kept[:number]
