"""The scheduler's decisions as an environment: which devices make up the slots of the pipeline, one after another.

A *slot* is a place for a stage: devices that will run it as replicas. The first decision opens a slot with some
devices of a class; each further one adds devices of another class to the open slot, opens the next slot, or ends.
Masks allow only devices that are left, so each device serves at most one slot. Groups of devices that divide ops
replicate a stage only with groups of their own type, so other slots are not offered. Sets of devices over several
classes have one spelling (classes in ascending order), and of hosts that are alike and not in use yet only the first is
offered, so that equal plans are equal decisions. Hosts that are alike are taken by their number, too: so many whole
ones at once. So the decisions of an episode are as many as its plan has different stages, on a thousand devices as on
ten; and where more than a few hosts are alike, only the first few can be divided among slots.

Left out: one device in several slots; the local search may make such plans.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.agent.view.device_classes import Floats, Ints, Tables
from drlpp.agent.view.features import Profile, log_ratio
from drlpp.cluster import NO_LINK
from drlpp.cost.collectives import ring_wire_s

Bools = NDArray[np.bool_]

MAX_SLOTS = 48
"""No more slots than this, however many devices there are."""
NUM_CHOICE_FEATURES = 20
_FINE_COUNTS = 8
_PARTS = (2, 3, 4, 6, 8)
_ROW_STATE = (
    *("_open_rate", "_open_count", "_open_class", "_open_host", "_before_class"),
    *("_takes", "_rate", "_memory", "_spans", "_parts"),
)
_COARSE_COUNTS = (10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
_HOST_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, *_COARSE_COUNTS)
_DIVIDED_HOSTS = 8
"""Of hosts that are alike so many can be divided among slots."""


@dataclasses.dataclass(frozen=True)
class HostRow:
    """Hosts that are alike, of which slots take so many whole ones; or all devices of one type on them.

    Attributes:
        classes: ``[H, Q]`` of each host, the first host first.
        is_bundle: all that is left of them is a bundle.
    """

    classes: Ints
    is_bundle: bool

    def untouched(self, remaining: Ints, t: Tables) -> Bools:
        """``[B, H]`` hosts of which no such device is in use."""
        return np.asarray((remaining[:, self.classes] == t.size[self.classes]).all(axis=2))

    def next_hosts(self, remaining: Ints, number: int, t: Tables) -> Ints:
        """Classes of the next so many hosts, for what is left ``[C]``."""
        return np.asarray(self.classes[np.flatnonzero(self.untouched(remaining[None], t)[0])[:number]].ravel())


@dataclasses.dataclass(frozen=True)
class Choices:
    """The choices of one scheduler decision: the same list at every step, masked.

    All devices of a slot are of one `Tables.replica_kind`.

    In this order: the end; a new slot of some devices of a class; the same joined to the open slot; a new slot of
    whole hosts that are alike; the same joined to the open slot; a new slot of a *bundle*, which is all devices left in
    several classes (of everything, a host, a type, the types above a speed), or the same part, such as half, of the
    devices of several classes on more than one host: for stages of which each has a replica on every host, so that
    micro-batches stay on theirs.

    Attributes:
        device_class: ``[N]`` class of the devices; the first class of a bundle; 0 for the end.
        count: ``[N]`` how many; 0 for the end and for bundles.
        part: ``[N]`` part of the class's devices, or of the hosts that are alike; 0 for the end.
        joins: ``[N]`` adds to the open slot instead of opening one.
        bundles: ``[G, C]`` at most so many devices of each class; the last G choices.
        whole: ``[G]`` bundles that are all that is left, not a part.
        mix: ``[N, C]`` part of each class in the choice, by number of devices; 0 for the end.
        rows: hosts that are alike.
        row: ``[N]`` of which rows the choice takes hosts; -1 where it takes none.
        hosts: ``[N]`` how many hosts; 0 where it takes none.
    """

    device_class: Ints
    count: Ints
    part: Floats
    joins: Bools
    bundles: Ints
    whole: Bools
    mix: Floats
    rows: tuple[HostRow, ...]
    row: Ints
    hosts: Ints

    @property
    def num(self) -> int:
        return len(self.count)

    @property
    def first_bundle(self) -> int:
        """Number of the first bundle among the choices."""
        return self.num - len(self.bundles)

    @classmethod
    def of(cls, t: Tables) -> Choices:
        """The choices that a cluster offers."""
        may = t.may_replicate
        divided = np.flatnonzero(can_be_divided(t)) if may else range(t.num_classes)
        pairs = [(int(c), k) for c in divided for k in (_counts(int(t.size[c])) if may else [1])]
        bundles = _bundles(t) if may else np.zeros((0, t.num_classes), dtype=np.int64)
        whole = ((bundles == t.size) | (bundles == 0)).all(axis=1)
        rows = _host_rows(t, bundles[whole] > 0) if may else ()
        taken = [(r, h) for r, row in enumerate(rows) for h in _HOST_COUNTS if h <= len(row.classes)]
        rounds = 2 if may else 1
        first = (bundles > 0).argmax(axis=1)
        singles, of_hosts = len(pairs) * rounds, len(taken) * rounds
        device_class = np.array(
            [0, *([c for c, _ in pairs] * rounds), *([rows[r].classes[0, 0] for r, _ in taken] * rounds), *first],
            dtype=np.int64,
        )
        count = np.array([0, *([k for _, k in pairs] * rounds), *([0] * (of_hosts + len(bundles)))], dtype=np.int64)
        joins = np.zeros(len(count), dtype=bool)
        joins[1 + len(pairs) : 1 + singles] = rounds > 1
        joins[1 + singles + len(taken) : 1 + singles + of_hosts] = rounds > 1
        row, hosts = np.full(len(count), -1), np.zeros(len(count), dtype=np.int64)
        row[1 + singles : 1 + singles + of_hosts] = [r for r, _ in taken] * rounds
        hosts[1 + singles : 1 + singles + of_hosts] = [h for _, h in taken] * rounds
        mix = np.zeros((len(count), t.num_classes))
        mix[np.arange(len(count)), device_class] = 1.0
        mix[0] = 0.0
        part = count / t.size[device_class]
        for i in np.flatnonzero(hosts).tolist():
            of_first = rows[row[i]].classes[0]
            mix[i] = 0.0
            mix[i, of_first] = t.size[of_first] / t.size[of_first].sum()
            part[i] = hosts[i] / len(rows[row[i]].classes)
        mix[len(count) - len(bundles) :] = bundles / np.maximum(bundles.sum(axis=1, keepdims=True), 1)
        part[len(count) - len(bundles) :] = bundles[np.arange(len(bundles)), first] / t.size[first]
        return cls(device_class, count, part, joins, bundles, whole, mix, rows, row, hosts)

    def legal_hosts(self, remaining: Ints, open_class: Ints, t: Tables) -> tuple[Bools, Bools]:
        """Where hosts can be taken, for what is left ``[B, C]`` after class `open_class` ``[B]`` was added.

        A single host is a choice of its own where it cannot be divided; all that are left are no new slot where there
        is a bundle of them.

        Returns:
            ``[B, N]`` in a new slot, and joined to the open one; False where a choice takes no hosts.
        """
        opens, joins = np.zeros((2, len(remaining), self.num), dtype=bool)
        for r, row in enumerate(self.rows):
            own = np.flatnonzero(self.row == r)
            free = row.untouched(remaining, t)
            number, first = free.sum(axis=1), free.argmax(axis=1)
            rest = remaining[:, row.classes.ravel()].sum(axis=1)
            all_left = row.is_bundle & (rest[:, None] == self.hosts[own] * t.size[row.classes[0]].sum())
            single = (self.hosts[own] == 1) & (first < _DIVIDED_HOSTS)[:, None]
            legal = (number[:, None] >= self.hosts[own]) & ~single
            opens[:, own] = legal & ~all_left
            joins[:, own] = legal & (row.classes[first, 0] > open_class)[:, None]
        return opens, joins


def _counts(size: int) -> list[int]:
    return sorted({*range(1, min(size, _FINE_COUNTS) + 1), *(x for x in _COARSE_COUNTS if x < size), size})


def can_be_divided(t: Tables) -> Bools:
    """``[C]`` classes whose devices may be in different slots."""
    return np.asarray(t.twins_before.sum(axis=1)[t.host] < _DIVIDED_HOSTS)


def _host_rows(t: Tables, bundles: Bools) -> tuple[HostRow, ...]:
    """Of hosts that are alike: all their devices, and those of each type; beside bundles ``[G, C]`` of classes."""
    out = []
    for kind in np.unique(t.first_like).tolist():
        hosts = np.flatnonzero(t.first_like == kind)
        if len(hosts) < 2:
            continue
        width = int((t.host == hosts[0]).sum())
        classes = t.first_class[hosts][:, None] + np.arange(width)
        kind_of = t.replica_kind[classes[0]]
        together = [tuple(np.flatnonzero(kind_of == q).tolist()) for q in np.unique(kind_of)]
        for columns in dict.fromkeys([*together, *((q,) for q in range(width))]):
            own = classes[:, list(columns)]
            same = bundles == np.isin(np.arange(t.num_classes), own)
            out.append(HostRow(own, bool(same.all(axis=1).any())))
    return tuple(out)


def _bundles(t: Tables) -> Ints:
    """``[G, C]`` distinct numbers of devices of at least two classes: first all of each, then parts."""
    speeds = np.unique(t.speed)
    several = [t.speed >= s for s in speeds] + [t.speed == s for s in speeds]
    divided = np.unique(t.host[can_be_divided(t)])
    kinds = [t.replica_kind == q for q in np.unique(t.replica_kind)]
    several = [s & kind for s in several for kind in kinds]
    sets = [s for s in several + [(t.host == h) & kind for h in divided for kind in kinds] if s.sum() > 1]
    parts = [
        s * (t.size // q)
        for s in several
        if s.any()
        for q in _PARTS
        if len(set(t.host[s])) > 1 and t.size[s].min() >= q
    ]
    distinct = {tuple(b.tolist()): None for b in [s * t.size for s in sets] + parts}
    return np.array(list(distinct), dtype=np.int64).reshape(-1, t.num_classes)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Devices of one stage: (class, count) pairs with ascending classes."""

    parts: tuple[tuple[int, int], ...]

    @property
    def replicas(self) -> int:
        return sum(k for _, k in self.parts)


class SlotState:
    """The state of B scheduler episodes on one problem; `step` makes one decision in each.

    `position` counts shares of the cluster's speed that closed slots take: as the work will be split about in
    proportion to speed, it says which part of the graph the next slot is likely to get.
    """

    def __init__(self, t: Tables, profile: Profile, choices: Choices, batch: int) -> None:
        self._t, self._profile, self._choices = t, profile, choices
        self._max_slots = min(MAX_SLOTS, t.num_ops, int(t.size.sum()))
        self._total_speed = float((t.speed * t.size).sum())
        self._any_host = choices.row >= 0  # the choice says itself which hosts it takes
        self._any_host[choices.first_bundle :] = [len(set(t.host[b > 0])) > 1 for b in choices.bundles]
        self.remaining = np.tile(t.size, (batch, 1))
        self.num_slots = np.zeros(batch, dtype=np.int64)
        self.closed = np.zeros(batch)
        self._open_rate = np.zeros(batch)
        self._open_count = np.zeros(batch, dtype=np.int64)
        self._open_class = np.full(batch, -1, dtype=np.int64)
        self._open_host = np.zeros(batch, dtype=np.int64)
        self._before_class = np.full(batch, -1, dtype=np.int64)
        self.done = np.zeros(batch, dtype=bool)
        self.parts: list[list[list[tuple[int, int]]]] = [[] for _ in range(batch)]
        self._refresh()

    def _refresh(self) -> None:
        """What each choice takes now, ``[B, N]``: devices, their speed, smallest memory, and whether hosts differ."""
        c, t = self._choices, self._t
        shape = (len(self.remaining), c.num)
        takes, rate, memory = c.count.copy(), c.count * t.speed[c.device_class], t.memory[c.device_class]
        for i in np.flatnonzero(c.hosts).tolist():
            of_one = c.rows[c.row[i]].classes[0]
            takes[i], memory[i] = c.hosts[i] * t.size[of_one].sum(), t.memory[of_one].min()
            rate[i] = c.hosts[i] * (t.size[of_one] * t.speed[of_one]).sum()
        self._takes = np.broadcast_to(takes, shape).copy()
        self._rate = np.broadcast_to(rate, shape).copy()
        self._memory = np.broadcast_to(memory, shape).copy()
        self._spans = np.broadcast_to(c.hosts > 1, shape).copy()
        self._parts = np.ones(shape, dtype=np.int64)
        for g, most in enumerate(c.bundles, start=c.first_bundle):
            left = np.minimum(self.remaining, most)
            some = left > 0
            self._takes[:, g] = left.sum(axis=1)
            self._rate[:, g] = (left * t.speed).sum(axis=1)
            self._memory[:, g] = np.where(some, t.memory, np.inf).min(axis=1, initial=np.inf)
            first = np.where(some, t.host, t.host.max() + 1).min(axis=1)
            self._spans[:, g] = (some & (t.host != first[:, None])).any(axis=1)
            self._parts[:, g] = some.sum(axis=1)
        self._memory[self._takes == 0] = 1.0

    def mask(self) -> Bools:
        """``[B, N]`` legal choices; finished episodes have only the end."""
        c, t = self._choices, self._t
        first_bundle = c.first_bundle
        legal = (c.count > 0) & (self._takes <= self.remaining[:, c.device_class])
        legal[:, first_bundle:] = self._parts[:, first_bundle:] > 1
        for g in np.flatnonzero(~c.whole).tolist():  # all of the part, and not all that is left: that is another choice
            rest = (self.remaining - c.bundles[g])[:, c.bundles[g] > 0]
            legal[:, first_bundle + g] = (rest >= 0).all(axis=1) & (rest > 0).any(axis=1)
        of_hosts, later_hosts = c.legal_hosts(self.remaining, self._open_class, t)
        legal |= np.where(c.joins, later_hosts, of_hosts)
        join_ok = np.where(c.row >= 0, later_hosts, c.device_class > self._open_class[:, None])
        join_ok &= t.replica_kind[c.device_class] == t.replica_kind[self._open_class][:, None]
        join_ok &= (self.num_slots > 0)[:, None]
        open_ok = (self.num_slots < self._max_slots)[:, None]
        legal &= np.where(c.joins, join_ok, open_ok)
        legal &= ~(self._second_twins()[:, t.host[c.device_class]] & ~self._any_host)
        legal[:, 0] = self.num_slots > 0
        legal[self.done, 1:] = False
        return np.asarray(legal)

    def _second_twins(self) -> Bools:
        """``[B, H]`` hosts without a device in use, like such a host before them."""
        t = self._t
        unused = np.ones((len(self.remaining), len(t.twins_before)), dtype=bool)
        rows, classes = np.nonzero(self.remaining < t.size)
        unused[rows, t.host[classes]] = False
        return unused & (unused.astype(np.float32) @ t.twins_before.T > 0)

    def one_by_one(self) -> Bools:
        """``[B, N]`` of `mask`, only: the next slot has one device, of the first class that has any left."""
        c = self._choices
        wanted = np.where(self.remaining.any(axis=1), (self.remaining > 0).argmax(axis=1), -1)
        single = ~c.joins & (c.count == 1) & (c.device_class == wanted[:, None])
        mask = self.mask() & single
        mask[:, 0] = ~mask.any(axis=1)
        return np.asarray(mask)

    def select(self, rows: Ints) -> None:
        """Goes on with the given episodes, ``[B']`` indices, which may repeat."""
        for name in ("remaining", "num_slots", "closed", "done", *_ROW_STATE):
            setattr(self, name, getattr(self, name)[rows])
        self.parts = [[list(part) for part in self.parts[b]] for b in rows.tolist()]

    def share(self) -> Floats:
        """``[B]`` share of the cluster's speed that the open slot gives."""
        return self._share(self._open_rate, self._open_count)

    def _share(self, rate: Floats, count: Ints) -> Floats:
        """Unequal replicas share by their speed; of equal ones some run a micro-batch more than others."""
        m, count = self._t.microbatches, np.maximum(count, 1)
        return rate * m / (np.maximum(np.ceil(m / count), 1.0) * count) / self._total_speed

    def windows(self) -> tuple[Floats, Floats]:
        """``[B, N]`` parts of the work, from and to, that the slot of each choice would be likely to get."""
        c = self._choices
        after_open = self.closed + self.share()
        alone = self._share(self._rate, self._takes)
        joined = self._share(self._rate + self._open_rate[:, None], self._takes + self._open_count[:, None])
        start = np.where(c.joins, self.closed[:, None], after_open[:, None])
        end = start + np.where(c.joins, joined, alone)
        end[:, 0] = 1.0
        return np.minimum(start, 1.0), np.minimum(end, 1.0)

    def features(self, start: Floats, end: Floats) -> Floats:
        """``[B, N, NUM_CHOICE_FEATURES]`` of every choice, given its window."""
        c, t, p = self._choices, self._t, self._profile
        batch = len(self.closed)
        shape = (batch, c.num)
        k = c.device_class
        count = np.where(c.joins, self._takes + self._open_count[:, None], self._takes)
        ending = np.zeros(shape)
        ending[:, 0] = 1.0
        real = 1.0 - ending
        left = np.maximum(1.0 - end, 0.0)
        share = np.maximum(end - start, 0.0)
        # the class that a transfer into this slot comes from: the slot before it
        source = np.where(c.joins, self._before_class[:, None], self._open_class[:, None])
        has_source = source >= 0
        live_in = np.interp(start, p.work, p.narrow) * has_source
        bandwidth = np.where(has_source, t.bandwidth[np.maximum(source, 0), k], NO_LINK.bandwidth)
        same_host = ~self._spans & has_source & (t.host[np.maximum(source, 0)] == t.host[k])
        window_params = p.at(p.params, end) - p.at(p.params, start)
        spared = t.divided_states * (1.0 - 1.0 / np.maximum(count, 1))
        window_resident = p.at(p.resident, end) - p.at(p.resident, start) - spared * window_params
        window_saved = p.at(p.saved, end) - p.at(p.saved, start)
        spans_hosts = self._spans | (c.joins & (self._open_host[:, None] != t.host[k]))
        reduce_bandwidth = np.where(spans_hosts, t.port_bandwidth[k], t.link_bandwidth[k])
        reduce_s = ring_wire_s(np.maximum(count, 1.0), window_params, reduce_bandwidth)
        step_s = t.ideal_s * t.microbatches
        slots_after = 1.0 + left / np.maximum(share, 1e-3)
        in_flight = np.minimum(np.ceil(slots_after / np.maximum(count, 1)), t.microbatches)
        waste = np.ceil(t.microbatches / np.maximum(count, 1)) * np.maximum(count, 1) / t.microbatches
        live_out = np.interp(end, p.work, p.narrow) * (left > 1e-6)
        columns = [
            np.broadcast_to(real * ~c.joins, shape),
            np.broadcast_to(1.0 * c.joins, shape),
            ending,
            np.log2(np.maximum(count, 1)) / 3.0 * real,
            self._takes / np.maximum(self.remaining.sum(axis=1), 1)[:, None] * real,
            np.broadcast_to(c.part, shape),
            log_ratio(share * float(t.size.sum())) * real,
            start,
            end * real,
            left * real,
            ending * np.maximum(1.0 - start, 0.0),
            log_ratio(reduce_s / step_s) * real,
            log_ratio(live_in / bandwidth / t.ideal_s) * real,
            log_ratio(live_out / t.port_bandwidth[k] / t.ideal_s) * real,
            log_ratio(window_resident / self._memory) * real,
            log_ratio((window_resident + window_saved * in_flight) / self._memory) * real,
            same_host * real,
            (waste - 1.0) * real,
            np.broadcast_to(self.num_slots[:, None] / 8.0, shape),
            log_ratio(share / np.maximum(self.share()[:, None], 1e-3)) * (self.num_slots[:, None] > 0) * real,
        ]
        return np.stack(columns, axis=2)

    def step(self, choice: Ints) -> None:
        """Makes the chosen decisions; ``[B]`` indices of legal choices."""
        c, t = self._choices, self._t
        after_open = self.closed + self.share()
        for b, i in enumerate(choice.tolist()):
            if self.done[b]:
                continue
            if i == 0:
                self.done[b] = True
                continue
            taken = self._taken(b, i)
            for k, count in taken:
                self.remaining[b, k] -= count
            if c.joins[i]:
                self.parts[b][-1] += taken
            else:
                self.parts[b].append(taken)
                self.num_slots[b] += 1
                self.closed[b] = after_open[b]
                self._before_class[b] = self._open_class[b]
                self._open_rate[b], self._open_count[b] = 0.0, 0
                self._open_host[b] = t.host[taken[0][0]]
            self._open_rate[b] += sum(t.speed[k] * count for k, count in taken)
            self._open_count[b] += sum(count for _, count in taken)
            self._open_class[b] = taken[-1][0]
            if not self.remaining[b].any():
                self.done[b] = True
        self._refresh()

    def _taken(self, b: int, choice: int) -> list[tuple[int, int]]:
        c = self._choices
        g = choice - c.first_bundle
        if c.row[choice] >= 0:
            next_hosts = c.rows[c.row[choice]].next_hosts(self.remaining[b], int(c.hosts[choice]), self._t)
            return [(k, int(self._t.size[k])) for k in next_hosts.tolist()]
        if g < 0:
            return [(int(c.device_class[choice]), int(c.count[choice]))]
        taken = np.minimum(self.remaining[b], c.bundles[g])
        return [(int(k), int(taken[k])) for k in np.flatnonzero(taken)]

    def slots(self) -> list[tuple[Slot, ...]]:
        """The slots of each episode so far."""
        return [tuple(Slot(tuple(p)) for p in parts) for parts in self.parts]


def canonical(slots: tuple[Slot, ...], t: Tables) -> tuple[Slot, ...]:
    """The same slots on other hosts that are alike: the first of them in use is the first in number, and so on."""
    left: dict[int, list[int]] = {}
    for h, first in enumerate(t.first_like.tolist()):
        left.setdefault(first, []).append(h)
    name: dict[int, int] = {}
    out = []
    for slot in slots:
        parts = []
        for k, count in sorted(slot.parts, key=lambda part: (-part[1], part[0])):
            h = int(t.host[k])
            if h not in name:
                name[h] = left[int(t.first_like[h])].pop(0)
            parts.append((k + int(t.first_class[name[h]] - t.first_class[h]), count))
        out.append(Slot(tuple(sorted(parts))))
    return tuple(out)


def spell(slots: Sequence[tuple[Slot, ...]], t: Tables, choices: Choices) -> list[list[int] | None]:
    """The decisions that lead to given `canonical` slots, the end included; None where there are none, as in slots of
    several kinds of replicas.

    A slot of all that is left of several classes, or of a part of them, is spelled as a bundle where there is one.
    """
    return [_spell(episode, t, choices) for episode in slots]


def _spell(slots: tuple[Slot, ...], t: Tables, choices: Choices) -> list[int] | None:
    singles = np.flatnonzero(choices.count).tolist()
    index = {(bool(choices.joins[i]), int(choices.device_class[i]), int(choices.count[i])): i for i in singles}
    remaining = t.size.copy()
    out: list[int] = []
    for slot in slots:
        if len({int(t.replica_kind[k]) for k, _ in slot.parts}) > 1:
            return None
        taken = np.zeros_like(remaining)
        for k, count in slot.parts:
            taken[k] = count
        all_left = (np.minimum(remaining, choices.bundles) == taken).all(axis=1)
        bundle = [g for g in np.flatnonzero(all_left) if choices.whole[g] or np.array_equal(taken, choices.bundles[g])]
        if len(slot.parts) > 1 and bundle:
            out.append(choices.first_bundle + int(bundle[0]))
            remaining -= taken
            continue
        open_class = -1
        while taken.any():
            joins = open_class >= 0
            choice, part = _spell_hosts(taken, remaining, open_class, t, choices)
            if choice is None:
                k = int((taken > 0).argmax())
                choice, part = index.get((joins, k, int(taken[k]))), np.array([k])
                if choice is None:
                    return None
            out.append(choice)
            open_class = int(part[-1])
            remaining[part] -= taken[part]
            taken[part] = 0
    return [*out, 0] if remaining.any() else out


def _spell_hosts(taken: Ints, remaining: Ints, open_class: int, t: Tables, choices: Choices) -> tuple[int | None, Ints]:
    """The choice of whole hosts that begins what is still to be added to a slot, with their classes; the most hosts."""
    some, later = choices.legal_hosts(remaining[None], np.array([open_class]), t)
    legal = (later if open_class >= 0 else some)[0] & (choices.joins == (open_class >= 0))
    best: tuple[int | None, Ints] = None, np.zeros(0, dtype=np.int64)
    offered: list[tuple[int, Ints]] = []
    for r, row in enumerate(choices.rows):
        of_row = np.flatnonzero(legal & (choices.row == r))
        if len(of_row):
            own = row.next_hosts(remaining, int(choices.hosts[of_row].max()), t)
            width = row.classes.shape[1]
            number = (taken[own] == remaining[own]).cumprod().sum() // width
            offered += [(i, own[: choices.hosts[i] * width]) for i in of_row[choices.hosts[of_row] <= number].tolist()]
    if open_class < 0:
        left = {g: np.flatnonzero(choices.bundles[g] * remaining) for g in np.flatnonzero(choices.whole).tolist()}
        offered += [(choices.first_bundle + g, own) for g, own in left.items() if len(own) > 1]
    for i, own in offered:
        if len(own) > len(best[1]) and np.array_equal(taken[own], remaining[own]):
            others = taken.copy()
            others[own] = 0
            if not others[: own[-1]].any():
                best = i, own
    return best


def fastest_first(slot: Slot, t: Tables) -> list[tuple[int, int]]:
    """The (class, count) pairs of a slot, the fastest first."""
    return sorted(slot.parts, key=lambda part: -t.speed[part[0]])


def replica_classes(slot: Slot, before: Sequence[int], t: Tables) -> list[int]:
    """The class of each replica of a slot, in the order in which they take micro-batches if they share equally.

    The faster come first: where R replicas do not divide the micro-batches the first ones run one more. Of equally fast
    ones those come first that share a host with the replicas of the slot before that send to this place.

    Args:
        before: classes of the replicas of the slot before; empty for the first slot.
    """
    left = dict(fastest_first(slot, t))
    if len(left) == 1:
        return [k for k, count in left.items() for _ in range(count)]
    rank = {k: i for i, k in enumerate(left)}
    on_host: dict[int, list[int]] = {}
    for k in left:
        on_host.setdefault(int(t.host[k]), []).append(k)
    out: list[int] = []
    replicas = slot.replicas
    period = math.lcm(replicas, len(before)) if before else 0
    for place in range(replicas):
        senders = Counter(int(t.host[before[m % len(before)]]) for m in range(place, period, replicas))
        first = next(iter(left))
        near = [
            (count, -rank[k], k)
            for host, count in senders.items()
            for k in on_host.get(host, ())
            if k in left and t.speed[k] == t.speed[first]
        ]
        k = max(near)[2] if near else first
        out.append(k)
        left[k] -= 1
        if not left[k]:
            del left[k]
    return out


def slot_devices(slots: tuple[Slot, ...], t: Tables) -> tuple[tuple[int, ...], ...]:
    """Device ids of each slot: devices of a class are handed out in order, see `replica_classes`."""
    used = [0] * t.num_classes
    out = []
    before: list[int] = []
    for slot in slots:
        before = replica_classes(slot, before, t)
        ids = []
        for k in before:
            ids.append(t.class_devices[k][used[k]])
            used[k] += 1
        out.append(tuple(ids))
    return tuple(out)
