"""What the groups to come add at least to the load of all devices, and of one (`device_sets`)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drlpp.planners.bounds.diagram_states import Floats


class Rest(NamedTuple):
    """G groups, R replicas and T types, for `to_come`.

    Attributes:
        stay: ``[G + 1, R + 1]`` least weighted load of the groups before g if r devices run all of them.
        here: ``[G, R + 1]`` least load of each of r devices by a main group; 0 for satellites.
        run: ``[G + 1, R + 1]`` sum over the groups before g, each with the devices of the main group before it.
        moved: ``[G]`` seconds of what is exchanged with the main group before.
        satellite: ``[G]``.
        exchange: ``[R + 1]``, see `Row`.
        in_all: ``[R + 1, R + 1]`` part of the micro-batches that moves between different sets of r and q devices, at
            both ends together, times the least weight.
        of_each, of_new: ``[R + 1, R + 1]`` part that each device of a set of q moves after a set of r, and that the
            devices do that are new.
        new: ``[R + 1, R + 1]`` devices of q that are new at least.
        whole: with so many devices a set has all of them (R + 1: none has).
        onward: ``[T, G, R + 1]`` least load after group g of one of the r devices that run the last main group.
        enter: ``[R + 1, T, G]`` the same of a device that is not, if it ever runs a group again, in a set of at most so
            many.
    """

    stay: Floats
    here: Floats
    run: Floats
    moved: Floats
    satellite: NDArray[np.bool_]
    exchange: Floats
    in_all: Floats
    of_each: Floats
    of_new: Floats
    new: NDArray[np.int64]
    whole: int
    onward: Floats
    enter: Floats


@njit(cache=True)
def rest_of_row(
    weighted: Floats,
    seconds: Floats,
    params: Floats,
    moved: Floats,
    satellite: NDArray[np.bool_],
    exchange: Floats,
    share: Floats,
    kept: Floats,
    between: Floats,
    least: float,
    devices: int,
) -> Rest:
    """The constants of a row.

    Args:
        weighted: ``[G]`` least weighted seconds of each group.
        seconds: ``[T, G]``; inf for types without devices.
        params, moved, satellite, exchange: see `Row`.
        share, kept: see `overlap`.
        between: ``[T, G, R + 1]``, see `least_between`.
        least: smallest weight of a type.
        devices: how many there are.
    """
    types, num = seconds.shape
    most = len(exchange) - 1
    in_all, of_each, of_new = np.zeros((3, most + 1, most + 1))
    new = np.zeros((most + 1, most + 1), dtype=np.int64)
    for r in range(1, most + 1):
        for q in range(1, most + 1):
            common = min(r, q) if r != q else r - 1
            both = max(0.0, share[r] + share[q] - 2 * kept[r, q])
            if r != q or r < devices:
                in_all[r, q] = least * max(0.0, r * share[r] + q * share[q] - 2 * common * kept[r, q])
            of_each[r, q], of_new[r, q], new[r, q] = min(share[q], both), share[q], q - common
    stay = np.zeros((num + 1, most + 1))
    here, run = np.zeros((num, most + 1)), np.zeros((num + 1, most + 1))
    for g in range(num):
        for r in range(1, most + 1):
            if not satellite[g]:
                here[g, r] = seconds[:, g].min() / r + exchange[r] * params[g]
            run[g + 1, r] = run[g, r] + here[g, r] + between[:, g, r].min()
            best = weighted[g] + r * exchange[r] * params[g] * least
            if satellite[g]:
                for q in range(1, most + 1):
                    own = weighted[g] + q * exchange[q] * params[g] * least
                    best = min(best, own + moved[g] * in_all[r, q])
            stay[g + 1, r] = stay[g, r] + best
    onward = np.zeros((types, num, most + 1))
    enter = np.full((most + 1, types, num), np.inf)
    for t in range(types):
        following = num  # main group after g
        for g in range(num - 2, -1, -1):
            j = g + 1
            for q in range(1, most + 1):
                own = seconds[t, j] / q + exchange[q] * params[j] + share[q] * moved[j]
                own += 0.0 if satellite[j] else onward[t, j, q]
                enter[q, t, g] = min(enter[q - 1, t, g], enter[q, t, j], own)
            if not satellite[j]:
                following = j
            if following == num:
                continue
            j = following
            for r in range(1, most + 1):
                best = share[r] * moved[j]
                for q in range(1, most + 1):
                    move = 0.0 if q == r else moved[j] * max(0.0, share[r] + share[q] - 2 * kept[r, q])
                    best = min(best, move + seconds[t, j] / q + exchange[q] * params[j] + onward[t, j, q])
                onward[t, g, r] = best
    whole = devices if devices <= most else most + 1
    return Rest(
        stay,
        here,
        run,
        moved,
        satellite,
        exchange,
        in_all,
        of_each,
        of_new,
        new,
        whole,
        onward,
        enter,
    )


@njit(cache=True)
def to_come(rest: Rest, first: int, room: Floats, start: Floats, out: Floats) -> None:
    """Writes the least weighted load after group g, if r devices run it and go on up to group j at most, to
    ``out[g, r, j]``, for g from `first` on.

    The rest is cut in *runs* of groups with the same devices. A satellite runs where its main group does, or elsewhere;
    its load is not counted in the run.

    Args:
        rest: constants.
        first: the first group.
        room: ``[R + 1]`` the load that q devices can still take each, not increasing in q from 1 on; negative: there
            are not so many.
        start: ``[G + 1, R + 1]`` for results in between.
        out: ``[G, R + 1, G]``.
    """
    num, most = len(rest.moved), len(rest.exchange) - 1
    while most > 1 and room[most] < 0:
        most -= 1
    start[num] = 0.0
    for g in range(num - 1, first - 1, -1):
        start[g] = np.inf
        for r in range(1, most + 1):
            best = np.inf
            for j in range(g, num):  # the run goes on up to group j
                if j + 1 == num or not rest.satellite[j + 1]:
                    best = min(best, rest.stay[j + 1, r] - rest.stay[g + 1, r] + start[j + 1, r])
                out[g, r, j] = best
        if rest.satellite[g] or g == first:
            continue
        for q in range(1, most + 1):
            own = rest.stay[g + 1, q] - rest.stay[g, q]
            for r in range(1, most + 1):
                if q == r == rest.whole:
                    continue
                left = room[q] - rest.of_each[r, q] * rest.moved[g]
                if rest.new[r, q] > 0:
                    left = min(left, room[rest.new[r, q]] - rest.of_new[r, q] * rest.moved[g])
                left -= rest.here[g, q]
                if left < 0:
                    continue
                j = last_of_run(rest, g, q, left)
                start[g, r] = min(start[g, r], own + rest.moved[g] * rest.in_all[r, q] + out[g, q, j])


@njit(cache=True)
def last_of_run(rest: Rest, g: int, r: int, room: float) -> int:
    """The last group up to which r devices with so much room can go on after group g."""
    low, high = g, len(rest.run) - 2
    while low < high:
        middle = (low + high + 1) // 2
        if rest.run[middle + 1, r] - rest.run[g + 1, r] <= room:
            low = middle
        else:
            high = middle - 1
    return low


@njit(cache=True)
def least_between(seconds: Floats, moved: Floats, share: Floats, kept: Floats) -> Floats:
    """``[T, G, R + 1]`` least load of each of r devices by what was taken out before a group, if the main groups
    around it have the same devices: it runs there too, or values go elsewhere and come back (only one way counts, since
    the other one may count as a value that skips groups).

    Args:
        seconds: `Row.between_s`.
        moved: `Row.moved_s`.
        share, kept: see `overlap`.
    """
    most = len(share) - 1
    out = np.zeros((*seconds.shape, most + 1))
    for r in range(1, most + 1):
        part = share[r]
        for q in range(1, most + 1):
            if q != r:
                part = min(part, max(0.0, share[r] + share[q] - 2 * kept[r, q]))
        for g in range(len(moved)):
            for t in range(len(seconds)):
                out[t, g, r] = min(seconds[t, g] / r, part * moved[g])
    return out
