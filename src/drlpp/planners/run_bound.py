"""Is there a plan whose devices all have a load of at most T? A test that may say no, for `bounds` (steady state).

The ops of one path of the graph fall into *runs* with the same devices. Each of the r replicas of a run has a load of
at least its time over r, its gradient exchange, and its part of the transfers to the neighbouring runs. What is known
of the transfers between neighbouring runs with r and r' replicas on D devices:

- at least ``1/r - 1/r'`` of the micro-batches are moved by each of the r replicas if r < r' (all if r = r' = 1), and
  at least ``1 - min/max`` of all micro-batches (``1/r`` if r = r': the devices differ somewhere);
- if r + r' > D they share a device, whose load is at least that of both; and where the loads of both together exceed
  T they share none, and all micro-batches are moved.

Runs on all devices load every device. So plans are divided by the load C of all such runs: with C between c and c',
each of these runs has at most c' and every other run at most T - c. For each such class a dynamic program over the
runs finds the smallest load of all devices together; if it exceeds D T in every class, no plan has all loads below T.
"""

from __future__ import annotations

import itertools

import numpy as np
from numba import njit
from numpy.typing import NDArray

MAX_STEPS = 4e6
"""Above this number of steps per class the test is skipped (it then says that a plan may exist)."""
CLASSES = 24


def may_exist(
    path_s: NDArray[np.float64],
    path_bytes: NDArray[np.float64],
    moved_s: NDArray[np.float64],
    other_s: NDArray[np.float64],
    other_bytes: NDArray[np.float64],
    exchange: NDArray[np.float64],
    num_devices: int,
    bound_s: float,
) -> bool:
    """False if no plan has all loads at most `bound_s`.

    Args:
        path_s, path_bytes: ``[L]`` seconds on the best device, and parameter bytes, of the ops of the path.
        moved_s: ``[L]`` seconds that moving the values between op k - 1 and op k takes at either end.
        other_s, other_bytes: the same of all other ops.
        exchange: ``[R + 1]`` seconds per byte and micro-batch of a gradient exchange over r replicas.
        num_devices: D.
    """
    room = num_devices * bound_s * (1 + 1e-9)
    spare = room - float(path_s.sum() + other_s.sum())
    if spare < 0:
        return False
    most = len(exchange) - 1
    # a cut moves at least 1 / R of the micro-batches, at both ends
    usable = [0, *(k for k in range(1, len(path_s)) if 2 * moved_s[k] / most <= spare), len(path_s)]
    if len(usable) ** 3 / 6 * most**3 > MAX_STEPS:
        return True
    cuts = np.array(usable, dtype=np.int64)
    seconds = np.concatenate(([0.0], np.cumsum(path_s)))[cuts]
    params = np.concatenate(([0.0], np.cumsum(path_bytes)))[cuts]
    moved = np.concatenate((moved_s, [0.0]))[cuts]
    edges = np.linspace(0.0, bound_s * (1 + 1e-9), CLASSES + 1)
    for least, largest in itertools.pairwise(edges):
        load = _smallest_load(seconds, params, moved, exchange, num_devices, bound_s, bound_s - least, largest)
        load += _load_of_others(other_s, other_bytes, exchange, num_devices, bound_s - least, largest)
        if load <= room:
            return True
    return False


@njit(cache=True)
def _load_of_others(
    seconds: NDArray[np.float64],
    params: NDArray[np.float64],
    exchange: NDArray[np.float64],
    num_devices: int,
    most_partly: float,
    most_everywhere: float,
) -> float:
    """Smallest load of ops that are taken one by one; inf if one of them fits with no number of replicas."""
    total = 0.0
    for i in range(len(seconds)):
        best = np.inf
        for r in range(1, len(exchange)):
            load = seconds[i] / r + exchange[r] * params[i]
            if load <= (most_everywhere if r == num_devices else most_partly) * (1 + 1e-9):
                best = min(best, r * load)
        total += best
    return total


@njit(cache=True)
def _smallest_load(
    seconds: NDArray[np.float64],
    params: NDArray[np.float64],
    moved: NDArray[np.float64],
    exchange: NDArray[np.float64],
    num_devices: int,
    bound: float,
    most_partly: float,
    most_everywhere: float,
) -> float:
    """Smallest load over all ways to cut the path at the given places and to choose replicas; inf if there is none."""
    last, most = len(seconds) - 1, len(exchange) - 1
    kinds = 2 * most + 1  # replicas of the run before and whether it shares no device; 2 * most: there is none
    best = np.full((last + 1, last + 1, most + 1, kinds), np.inf)
    for q in range(1, last + 1):
        for r in range(1, most + 1):
            best[0, q, r, 2 * most] = 0.0
    answer = np.inf
    for p in range(last):
        for q in range(p + 1, last + 1):
            for r in range(1, most + 1):
                limit = (most_everywhere if r == num_devices else most_partly) * (1 + 1e-9)
                base = (seconds[q] - seconds[p]) / r + exchange[r] * (params[q] - params[p])
                if base > limit:
                    continue
                for kind in range(kinds):
                    value = best[p, q, r, kind]
                    if value == np.inf:
                        continue
                    load = base
                    if kind < 2 * most:
                        load += moved[p] * _part(r, kind // 2 + 1, kind % 2 == 1)
                    if load > limit:
                        continue
                    value += r * base
                    if q == last:
                        answer = min(answer, value)
                        continue
                    for s in range(1, most + 1):
                        for end in range(q + 1, last + 1):
                            following = (seconds[end] - seconds[q]) / s + exchange[s] * (params[end] - params[q])
                            apart = base + following > bound * (1 + 1e-9)
                            if following > bound * (1 + 1e-9) or (apart and r + s > num_devices):
                                break
                            if load + moved[q] * _part(r, s, apart) > limit:
                                continue
                            if apart:
                                fraction = 1.0
                            elif r == s:
                                fraction = 1.0 / r
                            else:
                                fraction = 1.0 - min(r, s) / max(r, s)
                            total = value + 2 * moved[q] * fraction
                            state = 2 * (r - 1) + (1 if apart else 0)
                            if total < best[q, end, s, state]:
                                best[q, end, s, state] = total
    return answer


@njit(cache=True)
def _part(mine: int, theirs: int, apart: bool) -> float:
    """Part of the micro-batches that each of `mine` replicas moves at least."""
    if apart or mine == theirs == 1:
        return 1.0 / mine
    return max(0.0, 1.0 / mine - 1.0 / theirs)
