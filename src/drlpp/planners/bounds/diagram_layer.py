"""One more layer of the decision diagram over sets of devices (`device_sets`): each state takes every set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drlpp.planners.base import Budget
from drlpp.planners.bounds.completion_bound import Rest, last_of_run, to_come
from drlpp.planners.bounds.diagram_states import (
    Floats,
    Ints,
    States,
    alike,
    coarsen,
    lower,
    place,
    rows_of,
    undominated,
)

SPACE = 8
"""States of a layer that there may be before they are joined or dropped, over those that may be left."""
CLOSE = 10_000
"""Steps that may be spent on what is to come after one state."""
STATES_AT_ONCE = 32
"""States that are gone through between two looks at the budget."""


class Costs(NamedTuple):
    """What one layer needs to know; see `Row`."""

    seconds: Floats
    param_bytes: float
    moved_s: float
    satellite: bool
    beside_s: float
    held: int
    exchange: Floats
    share: Floats
    kept: Floats
    weight: Floats
    to_come: Floats
    group: int
    limit: float
    room: float
    between: Floats
    apart: float


@njit(cache=True)
def _same(take: Ints, size: Ints, inside: NDArray[np.bool_], classes: int) -> bool:
    """Whether the devices taken are those inside."""
    for c in range(classes):  # noqa: SIM110  (compiled)
        if take[c] != (size[c] if inside[c] else 0):
            return False
    return True


@njit(cache=True)
def _moves(
    costs: Costs, seconds: float, take: Ints, size: Ints, inside: NDArray[np.bool_], classes: int, r: int, q: int
) -> tuple[float, float, float]:
    """What a device in both sets, in the new one only, and in the old one only has to move; nothing if they are one."""
    if r == 0 or _same(take, size, inside, classes):
        return 0.0, 0.0, 0.0
    stay = seconds * max(0.0, costs.share[r] + costs.share[q] - 2 * costs.kept[r, q])
    return stay, seconds * costs.share[q], seconds * costs.share[r]


@njit(cache=True)
def _rooms(
    take: Ints,
    size: Ints,
    after: Floats,
    dead: NDArray[np.bool_],
    classes: int,
    limit: float,
    rooms: Floats,
    room: Floats,
) -> None:
    """Writes to `room` what q devices can still take each, see `to_come`; `rooms` is for results in between."""
    number = 0
    for c in range(classes):
        for k in range(2):
            if dead[k, c]:
                continue
            left = limit - after[k, c]
            for _ in range(take[c] if k == 0 else size[c] - take[c]):
                d = number
                while d > 0 and rooms[d - 1] < left:
                    rooms[d] = rooms[d - 1]
                    d -= 1
                rooms[d] = left
                number += 1
    room[:] = -1.0
    for q in range(1, min(number + 1, len(room))):
        room[q] = rooms[q - 1]


def next_layer(
    states: States, costs: Costs, rest: Rest, width: int, cell: float, relaxed: bool, budget: Budget
) -> States | None:
    """The states after one more group; None: the budget was spent before they were all known.

    Args:
        states: of the layer before.
        costs: of the group.
        rest: of the row.
        width: most states that are left.
        cell: first width of a cell of loads.
        relaxed: states that are too many are joined, else dropped.
        budget: looked at every `STATES_AT_ONCE` states.
    """
    devices = states.load.shape[1]
    space = min((SPACE if relaxed else 4) * width, len(states.total) << devices)  # each state takes any set
    new = _empty(space, devices, states.parts.shape[1])
    table = np.full(1 << (2 * space - 1).bit_length(), -1, dtype=np.int64)
    n = 0
    for first in range(0, len(states.total), STATES_AT_ONCE):
        if budget.spent:
            return None
        last = min(first + STATES_AT_ONCE, len(states.total))
        n, cell = _extend(states, first, last, costs, rest, new, n, table, width, cell, relaxed)
    if budget.spent:
        return None
    return _best(new, n, table, width, cell, relaxed)


def _empty(space: int, devices: int, parts: int) -> States:
    return States(
        np.empty((space, devices)),
        np.empty(space),
        np.empty(space),
        np.empty(space),
        np.empty((space, parts), dtype=np.int64),
        np.empty(space, dtype=np.int64),
        np.empty((space, devices), dtype=np.int64),
        np.empty((space, devices), dtype=np.bool_),
    )


@njit(cache=True)
def _best(new: States, n: int, table: Ints, width: int, cell: float, relaxed: bool) -> States:
    """At most `width` of the first n states, without those that others are better than."""
    out = rows_of(new, undominated(new, n))
    if len(out.total) > width:
        number, _ = coarsen(out, len(out.total), table, cell, width, relaxed)
        out = rows_of(out, np.arange(number))
    return out


@njit(cache=True)
def _extend(
    states: States,
    begin: int,
    end: int,
    costs: Costs,
    rest: Rest,
    new: States,
    n: int,
    table: Ints,
    width: int,
    cell: float,
    relaxed: bool,
) -> tuple[int, float]:
    """Adds what comes after the states from `begin` to `end` to the n new ones; how many are there then, and the width
    of a cell."""
    devices, types, most = states.load.shape[1], len(costs.weight), len(costs.exchange) - 1
    space = len(new.total)
    take = np.zeros(devices, dtype=np.int64)
    after = np.empty((2, devices))  # load of each class's devices that are taken, and of the others
    num = len(rest.moved)
    left_over = num - costs.group
    is_last = left_over == 1
    close = not is_last and left_over * most * (left_over + 4 * most) <= CLOSE
    rooms, room = np.empty(devices), np.empty(most + 1)
    starts, ahead = np.empty((num + 1, most + 1)), np.empty((num if close else 0, most + 1, num))
    dead = np.zeros((2, devices), dtype=np.bool_)  # the same: cannot run anything any more
    room_for = np.empty(devices, dtype=np.int64)  # devices of each class that may be taken
    load, parts = np.empty(devices), np.empty(4 * types, dtype=np.int64)
    origin, chosen = np.empty(devices, dtype=np.int64), np.empty(devices, dtype=np.bool_)
    for i in range(begin, end):
        before, size, part, first, classes = alike(states, i, types)
        in_main, in_held = part % 4 < 2, part % 2 == 0
        r, h = size[:classes][in_main[:classes]].sum(), size[:classes][in_held[:classes]].sum()
        for c in range(classes):
            lightest = np.inf
            for q in range(1, most + 1):
                lightest = min(lightest, costs.seconds[part[c] // 4] / q + costs.exchange[q] * costs.param_bytes)
            room_for[c] = size[c] if before[c] + lightest <= costs.limit else 0
        take[:] = 0
        while True:
            c = 0  # the next number of devices from each class
            while c < classes and take[c] == room_for[c]:
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
            same = not costs.satellite and _same(take, size, in_main, classes)
            total, inside, lost = states.total[i], 0.0, 0.0
            fits = True
            for c in range(classes):
                t = part[c] // 4
                taken = costs.seconds[t] / q + costs.exchange[q] * costs.param_bytes
                taken += (stay if in_main[c] else enter) + (stay_held if in_held[c] else enter_held)
                other = (leave if in_main[c] else 0.0) + (leave_held if in_held[c] else 0.0)
                beside = costs.between[t, q] if same else 0.0
                after[0, c], after[1, c] = before[c] + taken + beside, before[c] + other
                if (take[c] > 0 and after[0, c] > costs.limit) or (take[c] < size[c] and after[1, c] > costs.limit):
                    fits = False
                    break
                total += costs.weight[t] * (take[c] * taken + (size[c] - take[c]) * other)
                inside += costs.weight[t] * take[c] * beside
                lost += costs.weight[t] * (take[c] * after[0, c] + (size[c] - take[c]) * after[1, c])
            if not fits:
                continue
            fullest = 0.0  # of the devices that the last main group runs on
            for c in range(classes):
                if costs.satellite and in_main[c]:
                    fullest = max(fullest, after[0, c] if take[c] > 0 else after[1, c])
                elif not costs.satellite and take[c] > 0:
                    fullest = max(fullest, after[0, c])
            main = r if costs.satellite else q
            g, wasted = costs.group, 0.0
            if not is_last:
                alive = devices
                while True:
                    number, wasted = 0, 0.0
                    for c in range(classes):
                        t = part[c] // 4
                        for k in range(2):
                            members = take[c] if k == 0 else size[c] - take[c]
                            main_after = in_main[c] if costs.satellite else k == 0
                            left = costs.limit - after[k, c]
                            dead[k, c] = not main_after and left < rest.enter[min(alive, most), t, g]
                            if members > 0 and main_after and left < rest.onward[t, g, main]:
                                fits = False
                            if not dead[k, c]:
                                number += members
                            elif not ((k == 0) if costs.held == 1 else (still and in_held[c])):
                                wasted += members * costs.weight[t] * left
                    if number == alive or not fits:
                        break
                    alive = number
                if not fits:
                    continue
            full = states.full[i] + (total - states.total[i]) + inside
            last = last_of_run(rest, g, main, costs.limit - fullest)
            # `full` and the loads may be the least of different joined states: what these leave is not added to it
            lost = max(full, lost + wasted)
            least = max(total + costs.apart, lost) + costs.to_come[main, last]
            if least > costs.room:
                continue
            if relaxed:
                full = lost
            # sort the devices of each type: by their new parts, each by load
            filled = 0
            for p in range(4 * types):
                start = filled
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
                        if relaxed and p % 4 == 3 and dead[0 if is_taken else 1, c]:
                            value = costs.limit
                        d = filled
                        while d > start and load[d - 1] > value:
                            load[d], origin[d], chosen[d] = load[d - 1], origin[d - 1], chosen[d - 1]
                            d -= 1
                        load[d], origin[d], chosen[d] = value, first[c] + k, is_taken
                        filled += 1
                parts[p] = filled - start
            checked = not close
            while True:
                at = place(table, new, load, parts, cell)
                j = table[at]
                if j >= 0 and relaxed:
                    lower(new, j, load, total, full)
                    break
                if not checked:
                    checked = True
                    _rooms(take, size, after, dead, classes, costs.limit, rooms, room)
                    to_come(rest, g, room, starts, ahead)
                    least = max(total + costs.apart, lost) + ahead[g, main, last]
                    if least > costs.room:
                        break
                if j >= 0 and full >= new.full[j]:
                    break
                if j >= 0 or n < space:
                    if j < 0:
                        j = table[at] = n
                        n += 1
                    new.load[j], new.parts[j] = load, parts
                    new.total[j], new.full[j], new.least[j] = total, full, least
                    new.parent[j], new.origin[j], new.chosen[j] = i, origin, chosen
                    break
                n, cell = coarsen(new, n, table, cell, width, relaxed)
    return n, cell
