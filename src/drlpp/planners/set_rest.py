"""What the groups to come add at least to the load of all devices (`device_sets`)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drlpp.planners.set_states import Floats


@njit(cache=True)
def least_to_come(
    weighted: Floats,
    fastest: Floats,
    params: Floats,
    moved: Floats,
    satellite: NDArray[np.bool_],
    exchange: Floats,
    share: Floats,
    kept: Floats,
    least: float,
    limit: float,
    apart: float,
    devices: int,
) -> Floats:
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
                j = last_of_run(seconds, size, g, q, exchange[q], room)
                own = stay[g + 1, q] - stay[g, q] + moved[g] * least * _moved_in_all(share, kept, r, q, devices)
                best = min(best, own + out[g, q, j])
            start[g, r] = best
    return out


@njit(cache=True)
def last_of_run(seconds: Floats, size: Floats, g: int, r: int, exchange: float, room: float) -> int:
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
def _moved_in_all(share: Floats, kept: Floats, r: int, q: int, devices: int) -> float:
    """Part of the micro-batches moved between different sets of r and q devices, at both ends together."""
    common = min(r, q)
    if r == q:
        if r == devices:
            return 0.0
        common -= 1
    return max(0.0, float(r * share[r] + q * share[q] - 2 * common * kept[r, q]))
