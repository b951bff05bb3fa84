"""One more layer of the decision diagram over sets of devices (`device_sets`): each state takes every set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drlpp.planners.set_rest import last_of_run
from drlpp.planners.set_states import Floats, Ints, States, alike, coarsen, lower, place, undominated


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
    prefix_s: Floats
    prefix_bytes: Floats
    group: int
    limit: float
    room: float


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
def next_layer(states: States, costs: Costs, width: int, cell: float, relaxed: bool) -> tuple[States, float]:
    """The states after one more group, and the width of a cell of loads that the layer needed."""
    devices, types, most = states.load.shape[1], len(costs.weight), len(costs.exchange) - 1
    space = 4 * width
    size_of_table = 1
    while size_of_table < 4 * space:
        size_of_table *= 2
    table = np.full(size_of_table, -1, dtype=np.int64)
    new = States(
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
        before, size, part, first, classes = alike(states, i, types)
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
            last = last_of_run(
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
                at = place(table, new, load, parts, cell)
                j = table[at]
                if j >= 0 and relaxed:
                    lower(new, j, load, total)
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
                n, cell = coarsen(new, n, table, cell, width, relaxed)
    kept = undominated(new, n)
    out = States(new.load[kept], new.total[kept], new.parts[kept], new.parent[kept], new.origin[kept], new.chosen[kept])
    if len(kept) > width:
        number, cell = coarsen(out, len(kept), table, cell, width, relaxed)
        out = States(
            out.load[:number],
            out.total[:number],
            out.parts[:number],
            out.parent[:number],
            out.origin[:number],
            out.chosen[:number],
        )
    return out, cell
