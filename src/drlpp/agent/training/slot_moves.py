"""What the warm start (`imitation`) searches slots with: even ones to begin with, and small random changes."""

from __future__ import annotations

import numpy as np

from drlpp.agent.decisions.device_groups import MAX_SLOTS, Slot, can_be_divided
from drlpp.agent.view.device_classes import Ints, Tables

_TRIES = 4
"""Changes that are drawn until one applies."""


def even_slots(t: Tables) -> list[tuple[Slot, ...]]:
    """The devices in a row, host by host, cut into slots of about equal speed: from one slot to one for each device, or
    each class where some cannot be divided, in the order of the hosts and the other way round. A slot ends where the
    kind of replicas changes, too.
    """
    if not t.may_replicate:
        return []
    each = np.ones_like(t.size) if can_be_divided(t).all() else t.size
    out = []
    for way in (1, -1):
        classes = np.repeat(np.arange(t.num_classes), t.size // each)[::way]
        speed, kind = (t.speed * each)[classes], t.replica_kind[classes]
        reached = np.cumsum(speed) - speed / 2
        for number in range(1, min(MAX_SLOTS, t.num_ops, len(classes)) + 1):
            slot = np.minimum((reached * number / speed.sum()).astype(np.int64), number - 1)
            ends = np.diff(slot, prepend=slot[0]).astype(bool) | np.diff(kind, prepend=kind[0]).astype(bool)
            slot = np.cumsum(ends)
            if slot[-1] >= min(MAX_SLOTS, t.num_ops):
                continue
            counts = np.zeros((slot[-1] + 1, t.num_classes), dtype=np.int64)
            np.add.at(counts, (slot, classes), each[classes])
            out.append(_slots(counts))
    return list(dict.fromkeys(out))


def _slots(counts: Ints) -> tuple[Slot, ...]:
    return tuple(Slot(tuple((int(k), int(row[k])) for k in np.flatnonzero(row))) for row in counts)


def changed_slots(slots: tuple[Slot, ...], t: Tables, rng: np.random.Generator) -> tuple[Slot, ...]:
    """One or two random changes; the slots themselves where nothing that was drawn applies.

    Devices of a class, or of several alike, move from a slot to another one, to a new one or to none; two slots change
    places, or a device each; a slot is split in two; two neighbours become one.
    """
    start = np.zeros((len(slots), t.num_classes), dtype=np.int64)
    for s, slot in enumerate(slots):
        for k, count in slot.parts:
            start[s, k] = count
    for _ in range(_TRIES):
        counts = start.copy()
        for _ in range(int(rng.integers(1, 3))):
            if len(counts):
                counts = _MOVES[int(rng.integers(len(_MOVES)))](counts, t, rng)
                counts = counts[counts.any(axis=1)]
        if _is_legal(counts, t):
            return _slots(counts)
    return slots


def _is_legal(counts: Ints, t: Tables) -> bool:
    crowded = not 0 < len(counts) <= min(MAX_SLOTS, t.num_ops)
    used, kind = counts > 0, t.replica_kind
    mixed = np.where(used, kind, -1).max(axis=1, initial=-1) != np.where(used, kind, kind.max()).min(axis=1)
    replicated = not t.may_replicate and (counts.sum(axis=1) > 1).any()
    return not (crowded or replicated or mixed.any())


def _part(count: int, rng: np.random.Generator) -> int:
    """One of them, or all, or some."""
    return (1, count, int(rng.integers(1, count + 1)))[int(rng.integers(3))]


def _moved(row: Ints, k: int, t: Tables, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Devices of class k of a slot; or, in half of the draws, of some of its classes that are like k: all of each."""
    offset = np.arange(t.num_classes) - t.first_class[t.host]
    alike = np.flatnonzero((t.first_like[t.host] == t.first_like[t.host[k]]) & (offset == offset[k]) & (row > 0))
    if len(alike) > 1 and rng.random() < 0.5:
        chosen = alike[: _part(len(alike), rng)]
        return chosen, row[chosen]
    return np.array([k]), np.array([_part(int(row[k]), rng) if can_be_divided(t)[k] else row[k]])


def _hand_over(counts: Ints, t: Tables, rng: np.random.Generator) -> Ints:
    """From a slot, or from those that are idle, to a slot or to none."""
    whole = np.concatenate([counts, [t.size - counts.sum(axis=0)]])
    origins = np.argwhere(whole > 0)
    a, k = (int(x) for x in origins[rng.integers(len(origins))])
    b = int(rng.integers(len(whole)))
    classes, moved = _moved(whole[a], k, t, rng)
    whole[a, classes] -= moved
    whole[b, classes] += moved
    return whole[:-1]


def _new_slot(counts: Ints, t: Tables, rng: np.random.Generator) -> Ints:
    """From a slot, or from those that are idle, to a new slot anywhere."""
    whole = np.concatenate([counts, [t.size - counts.sum(axis=0)]])
    origins = np.argwhere(whole > 0)
    a, k = (int(x) for x in origins[rng.integers(len(origins))])
    classes, moved = _moved(whole[a], k, t, rng)
    whole[a, classes] -= moved
    fresh = np.zeros(t.num_classes, dtype=np.int64)
    fresh[classes] = moved
    return np.insert(whole[:-1], int(rng.integers(len(counts) + 1)), fresh, axis=0)


def _change_places(counts: Ints, t: Tables, rng: np.random.Generator) -> Ints:
    """Two slots."""
    a, b = rng.integers(len(counts), size=2)
    counts[[a, b]] = counts[[b, a]]
    return counts


def _exchange(counts: Ints, t: Tables, rng: np.random.Generator) -> Ints:
    """A device of a slot and one of another class, of another slot or idle."""
    whole = np.concatenate([counts, [t.size - counts.sum(axis=0)]])
    places = np.argwhere(whole > 0)
    (a, k), (b, other) = places[rng.integers(len(places), size=2)]
    whole[a, k] -= 1
    whole[b, other] -= 1
    whole[a, other] += 1
    whole[b, k] += 1
    return whole[:-1]


def _split(counts: Ints, t: Tables, rng: np.random.Generator) -> Ints:
    """A slot in two: by classes, or a part of each."""
    s = int(rng.integers(len(counts)))
    row = counts[s]
    first = np.where(rng.random(len(row)) < 0.5, row, 0) if rng.random() < 0.5 else row // 2
    rest = row - first
    parts = [first, rest] if rng.random() < 0.5 else [rest, first]
    return np.concatenate([counts[:s], parts, counts[s + 1 :]])


def _merge(counts: Ints, t: Tables, rng: np.random.Generator) -> Ints:
    """A slot and the one after it."""
    if len(counts) < 2:
        return counts
    s = int(rng.integers(len(counts) - 1))
    return np.concatenate([counts[:s], [counts[s] + counts[s + 1]], counts[s + 2 :]])


_MOVES = (_hand_over, _hand_over, _new_slot, _change_places, _exchange, _split, _merge)
