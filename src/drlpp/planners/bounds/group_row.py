"""The row of groups that `decision_diagram` asks about, from a problem: what must be together, and in which order.

Groups. For a bound T, the devices have some time to spare beyond the work. Let the smallest cut between two ops be the
least time that moving values between them takes (`min_cuts`). Where it exceeds the spare time, both ops have the same
set of devices in every plan with loads up to T: they become one group.

Main groups and satellites. The groups along the heaviest path of the graph are the *main groups*; they are the row.
Where the path leaves a group and comes back, the groups in between are *satellites* of that group. A group beside the
path is a satellite of the main group that it exchanges most with; or, if it exchanges with satellites only, of their
main group. The values between two satellites, and between groups further apart, count while one of the two is *held*;
one group at a time can be.

Groups taken out. Groups too small to matter for the load of a device leave the row. Their work still counts in the sum
over devices; it counts on the devices of the main groups around them if these have the same set. Of the transfers
before and behind such a group, the smaller one remains: the part of the micro-batches that a device moves obeys the
triangle inequality.

Values that skip a group (a residual connection, the concatenations of a dense block). Let group g produce a value read
by its successor n and by a later group h. We charge its transfer once: at n if n uses other devices than g, otherwise
at h; for that, g is held as long as n has the devices of g. Both g and h stay in the row, whatever their work. Now let
groups be taken out between g and the next group n of the row:

- n uses other devices: the value is not charged at h, so it may be part of the transfer from g to n.
- n uses the same devices, and is not h: no transfer from g to n is charged. What was taken out between them counts as
  work, or as one transfer back to the devices of n. The value came from there, so it is no part of that transfer.
- n is h: the smaller transfer between g and n may be that of this value, to a group that was taken out and has the
  devices of n. It would be charged twice, so such a value is charged there alone.

Left out, all of it on the safe side: what is exchanged by groups that are not held; each value counts once.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import NO_LINK, Cluster, Link
from drlpp.cost.collectives import ring_s
from drlpp.cost.problem_arrays import ProblemArrays
from drlpp.graph import OpGraph
from drlpp.planners.base import Budget
from drlpp.planners.bounds.decision_diagram import TOLERANCE, Hold, Row, find_sets, overlap
from drlpp.planners.bounds.min_cuts import Hypergraph, inseparable
from drlpp.problem import PlanningProblem

MAX_PATH = 1500
MAX_DEVICES = 64
MAX_KINDS_OF_SET, MAX_KINDS_OF_PAIR = 1000, 500
"""Larger problems are not asked about: ops on the heaviest path, devices, sets by number of devices of each type."""


class SetRows:
    """Rows of groups of one problem, for any bound.

    Args:
        problem: what is planned.
        arrays: its arrays.

    Attributes:
        work_s: what all devices together need at least, each for its part.
    """

    def __init__(self, problem: PlanningProblem, arrays: ProblemArrays) -> None:
        weights, self.work_s = work_weights(problem, arrays)
        cluster = problem.cluster
        used = np.unique(cluster.type_index)
        self._arrays = arrays
        self._weights = weights
        self._by_type = np.argsort(cluster.type_index, kind="stable")
        self._count = np.bincount(cluster.type_index, minlength=len(arrays.times.total_s))
        self._weighted = (arrays.times.total_s[used] * weights[used, None]).min(axis=0)
        self._fastest = arrays.times.total_s[used].min(axis=0)
        self._capacity = float(self._count @ weights)
        self._path = _heaviest_path(problem.graph, self._weighted)
        replicas = cluster.num_devices if problem.may_replicate else 1
        self._exchange = exchange_s_per_byte(cluster)[: replicas + 1] / problem.training.num_microbatches
        per_unit = 1.0 if arrays.ops.timed else 1.0 / float(_largest_bandwidth(cluster))
        self._moved_s = arrays.ops.value_amount * per_unit
        self._value_ops = _value_ops(arrays)
        share, kept = overlap(replicas)
        least = 2.0 if cluster.num_devices > 1 else 0.0
        for r in range(1, replicas + 1):
            for q in range(1, r + 1):
                common = q if q < r else r - 1
                if q < r or r < cluster.num_devices:
                    least = min(least, r * share[r] + q * share[q] - 2 * common * kept[r, q])
        self._least_move = least * float(weights[used].min())

    def shared_out(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """``[N]`` what ``[T, N]`` seconds on one device of each type add at least to the load of all, shared out."""
        used = self._count > 0
        out: NDArray[np.float64] = (seconds[used] * self._weights[used, None]).min(axis=0) / self._capacity
        return out

    @property
    def out_of_reach(self) -> bool:
        """The path or the cluster exceeds what is asked about, or there is no work."""
        kinds = math.prod(int(n) + 1 for n in self._count)
        too_large = len(self._path) > MAX_PATH or self._count.sum() > MAX_DEVICES or kinds > MAX_KINDS_OF_SET
        return too_large or self.work_s == 0.0

    def find(
        self,
        bound_s: float,
        width: int,
        small: float,
        budget: Budget,
        *,
        skips: bool = True,
        most_ways: int = 1,
        relaxed: bool = True,
    ) -> list[list[tuple[NDArray[np.int64], tuple[int, ...]]]] | None:
        """Ways to run the row with all loads at most `bound_s`: ops and devices of each group. Empty: no plan exists;
        None: the budget was spent before the answer.

        Arguments as for `find_sets` and `row`.
        """
        if self._capacity * bound_s * (1 + TOLERANCE) < self._weighted.sum():
            return []
        if budget.spent:
            return None
        row, groups = self.row(bound_s, small, skips)
        ways = find_sets(row, bound_s, width, budget, most_ways, relaxed)
        if ways is None:
            return None
        return [
            [(ops, tuple(self._by_type[list(s)].tolist())) for ops, s in zip(groups, sets, strict=True)]
            for sets in ways
        ]

    def row(self, bound_s: float, small: float, with_skips: bool = True) -> tuple[Row, list[NDArray[np.int64]]]:
        """The row for a bound, and the ops of each of its groups.

        Args:
            small: groups below this part of the bound, in time and in gradient exchange, are taken out of the row.
            with_skips: groups that a value goes beyond the next group from, or to, stay in, and it counts there too.
        """
        arrays = self._arrays
        group = self._together(self._capacity * bound_s * (1 + TOLERANCE) - float(self._weighted.sum()))
        num = int(group.max()) + 1
        main, host = self._main_groups(group)
        host, moved, pairs, skips = self._exchanged(group, num, main, host)
        may_hold = math.prod(math.comb(int(n) + 3, 3) for n in self._count) <= MAX_KINDS_OF_PAIR
        work = np.zeros((len(arrays.times.total_s), num))
        for t in range(len(work)):
            work[t] = np.bincount(group, arrays.times.total_s[t], num)
        params = np.bincount(group, arrays.ops.param_bytes, num)
        slowest = work[self._count > 0].max(axis=0)
        large = (slowest > small * bound_s) | (params * self._exchange[-1] > small * bound_s)
        skips = skips if with_skips and may_hold else {}
        for pair, seconds in skips.items():
            large[list(pair)] |= seconds > small * bound_s
        satellites: dict[int, list[int]] = {g: [] for g in main}
        first_op = np.full(num, len(group))
        np.minimum.at(first_op, group, np.arange(len(group)))
        for g, h in sorted(host.items(), key=lambda x: int(first_op[x[0]])):
            if large[g]:
                satellites[h].append(g)
        order: list[int] = []
        is_satellite: list[bool] = []
        cuts: list[float] = []
        taken_out: list[NDArray[np.float64]] = []
        passed = np.inf  # smallest transfer over the groups taken out since the last one that was kept
        between = np.zeros(len(work))  # and their work
        for g in main:
            passed = min(passed, moved[g])
            if not (large[g] or satellites[g]):
                between = between + work[:, g]
            else:
                taken_out += [between if taken_out else 0 * between, *(0 * between for _ in satellites[g])]
                between = 0 * between
                order += [g, *satellites[g]]
                is_satellite += [False, *(True for _ in satellites[g])]
                cuts += [passed, *(moved[s] for s in satellites[g])]
                passed = np.inf
        neighbours = set(itertools.pairwise(g for g in order if g not in host))
        skips = {pair: seconds for pair, seconds in skips.items() if pair not in neighbours}
        rank = np.full(num, -1)
        rank[order] = np.arange(len(order))
        outside = np.flatnonzero(rank[group] < 0)
        if cuts:
            cuts[0] = 0.0
        beside, held = np.zeros(len(order)), np.full(len(order), Hold.NOTHING, dtype=np.int64)
        if may_hold:
            beside, held = _held(
                np.array(is_satellite, dtype=np.bool_),
                *(
                    {
                        (int(min(rank[[a, b]])), int(max(rank[[a, b]]))): seconds
                        for (a, b), seconds in found.items()
                        if min(rank[a], rank[b]) >= 0 and seconds > small * bound_s
                    }
                    for found in (pairs, skips)
                ),
            )
        row = Row(
            seconds=np.ascontiguousarray(work[:, order]),
            param_bytes=params[order].astype(np.float64),
            moved_s=np.array(cuts),
            satellite=np.array(is_satellite, dtype=np.bool_),
            beside_s=beside,
            held=held,
            exchange=self._exchange,
            count=self._count,
            weight=self._weights,
            between_s=np.array(taken_out).reshape(len(order), len(work)).T.copy(),
            apart=self._apart(outside, bound_s),
        )
        return row, [np.flatnonzero(group == g) for g in order]

    def _together(self, spare: float) -> NDArray[np.int64]:
        """``[N]`` group of each op, if devices may only spend so many weighted seconds on transfers."""
        graph = Hypergraph(self._arrays.ops.num_ops, *self._value_ops, self._moved_s * self._least_move)
        label = inseparable(graph, spare)
        _, group = np.unique(label, return_inverse=True)
        return np.asarray(group, dtype=np.int64)

    def _main_groups(self, group: NDArray[np.int64]) -> tuple[list[int], dict[int, int]]:
        """Groups along the path, and for those between two visits of one group, that group."""
        main: list[int] = []
        host: dict[int, int] = {}
        for op in self._path:
            g = int(group[op])
            if g in host:
                continue
            if g in main:
                at = main.index(g)
                left = set(main[at + 1 :])
                host.update(dict.fromkeys(left, g))
                host.update({s: g for s, h in host.items() if h in left})
                del main[at + 1 :]
            else:
                main.append(g)
        return main, host

    def _exchanged(
        self, group: NDArray[np.int64], num: int, main: list[int], host: dict[int, int]
    ) -> tuple[dict[int, int], NDArray[np.float64], dict[tuple[int, int], float], dict[tuple[int, int], float]]:
        """The host of every group beside the row; ``[num]`` seconds of the values that each group exchanges with the
        main group before it or its host; of those that other pairs of groups exchange; and of those that a main group
        sends to the next one and, the same values, to one behind that."""
        arrays = self._arrays
        place = np.full(num, -2)
        place[main] = np.arange(len(main))
        moved = np.zeros(num)
        source = group[arrays.ops.value_src]
        linked: list[set[int]] = []
        left: list[tuple[int, list[int]]] = []
        amount: dict[tuple[int, int], float] = {}
        skips: dict[tuple[int, int], float] = {}
        for v in range(len(source)):
            a = int(source[v])
            users = set(group[arrays.ops.consumers(v)].tolist()) - {a}
            linked.append({a, *users})
            next_to = [b for b in users if place[a] >= 0 and place[b] >= 0 and abs(place[a] - place[b]) == 1]
            if next_to:
                at = max(a, *next_to, key=lambda g: place[g])
                moved[at] += self._moved_s[v]
                behind = [b for b in users if place[b] > place[a] + 1]
                if behind and at != a:
                    skip = a, min(behind, key=lambda g: place[g])
                    skips[skip] = skips.get(skip, 0.0) + self._moved_s[v]
            elif users:
                left.append((v, sorted(users)))
                for b in users:
                    for x, y in ((a, b), (b, a)):
                        if place[x] < 0 and x not in host and place[y] >= 0:
                            amount[x, y] = amount.get((x, y), 0.0) + self._moved_s[v]
        best: dict[int, float] = {}
        for (x, y), value in amount.items():
            if value > best.get(x, -1.0):
                best[x], host[x] = value, y
        found = True
        while found:  # what hangs on a satellite hangs on its host
            found = False
            for groups in linked:
                at = next((host.get(g, g) for g in sorted(groups) if g in host or place[g] >= 0), -1)
                for g in groups:
                    if at >= 0 and place[g] < 0 and g not in host:
                        host[g], found = at, True
        pairs: dict[tuple[int, int], float] = {}
        for v, users_of in left:
            a = int(source[v])
            satellites = [b for b in users_of if host.get(b) == a] or [b for b in users_of if host.get(a) == b][:1]
            if satellites:
                moved[satellites[0] if host.get(satellites[0]) == a else a] += self._moved_s[v]
            else:
                pair = a, min(users_of, key=lambda b: (abs(place[b] - place[a]), b))
                pairs[pair] = pairs.get(pair, 0.0) + self._moved_s[v]
        return host, moved, pairs, skips

    def _apart(self, ops: NDArray[np.int64], bound_s: float) -> float:
        """Least weighted load of some ops, each with the number of replicas that keeps it below the bound."""
        r = np.arange(1, len(self._exchange))
        exchange = self._exchange[1:]
        lightest = float(self._weights[self._count > 0].min())
        total = 0.0
        for i in ops.tolist():
            load = self._fastest[i] / r + exchange * self._arrays.ops.param_bytes[i]
            extra = np.where(
                load <= bound_s * (1 + TOLERANCE), r * exchange * self._arrays.ops.param_bytes[i], np.inf
            ).min()
            total += float(self._weighted[i] + lightest * extra)
        return total


def work_weights(problem: PlanningProblem, arrays: ProblemArrays) -> tuple[NDArray[np.float64], float]:
    """Weights ``[T]`` of a second on each device type, and the bound by work that they give: see `bounds`."""
    count = np.bincount(problem.cluster.type_index, minlength=len(arrays.times.total_s)).astype(np.float64)
    used = count > 0

    def value(y: NDArray[np.float64]) -> float:
        spent = (arrays.times.total_s[used] * y[used, None]).min(axis=0).sum()
        return float(spent / (count[used] @ y[used]))

    whole = arrays.times.total_s.sum(axis=1)
    best = np.where(whole > 0, 1.0 / np.maximum(whole, 1e-300), 1.0)
    best /= best.max()
    best_value = value(best)
    step = 0.5
    while step > 1e-4 and used.sum() > 1:
        improved = False
        for t in np.flatnonzero(used):
            for factor in (1.0 + step, 1.0 / (1.0 + step)):
                y = best.copy()
                y[t] *= factor
                if (v := value(y)) > best_value:
                    best, best_value, improved = y, v, True
        step = step if improved else step / 2
    return best, best_value


def exchange_s_per_byte(cluster: Cluster) -> NDArray[np.float64]:
    """``[D + 1]`` seconds per byte that an all-reduce over r = 0, 1, ... D devices takes at least; not falling."""
    sizes = [len(h.devices) for h in cluster.hosts if h.devices]
    largest, hosts, total = max(sizes), len(sizes), cluster.num_devices
    inside = [x.bandwidth for h in cluster.hosts for x in h.all_links]
    ports = [h.network.bandwidth for h in cluster.hosts if h.network is not None]
    link, port = (Link(bandwidth=max(found, default=NO_LINK.bandwidth)) for found in (inside, ports))
    out = np.zeros(total + 1)
    for r in range(2, total + 1):
        choices = []
        for n in range(1, min(r, largest) + 1):
            h = -(-r // n)
            if h <= hosts:
                choices.append(ring_s(n, 1.0, link) + ring_s(h, 1.0, port))
        out[r] = min(choices, default=0.0)
    return np.minimum.accumulate(out[::-1])[::-1]


def _held(
    satellite: NDArray[np.bool_], pairs: dict[tuple[int, int], float], skips: dict[tuple[int, int], float]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What to hold (`Row.beside_s`, `Row.held`), one group at a time, so that most of what is exchanged counts.

    Args:
        satellite: ``[G]`` which groups of the row are satellites.
        pairs: (earlier group, later group) -> seconds.
        skips: the same for values that also go from the earlier one to the main group after it, where they have
            counted if that one has other devices.
    """
    num = len(satellite)
    best = np.zeros(num)
    start: list[tuple[int, bool]] = [(-1, False)] * num  # of the interval that ends here: group, whether skips count
    ending: list[list[tuple[int, bool, float]]] = [[] for _ in range(num)]
    for with_skips in (False, True):
        for x in range(num):
            total = 0.0
            for y in range(x + 1, num):
                seconds = pairs.get((x, y), 0.0) + (skips.get((x, y), 0.0) if with_skips else 0.0)
                total += seconds
                if seconds > 0:
                    ending[y].append((x, with_skips, total))
    for y in range(num):
        best[y] = best[y - 1] if y else 0.0
        for x, with_skips, seconds in ending[y]:
            if best[x] + seconds > best[y]:
                best[y], start[y] = best[x] + seconds, (x, with_skips)
    beside, held = np.zeros(num), np.full(num, Hold.NOTHING, dtype=np.int64)
    y = num - 1
    while y >= 0:
        x, with_skips = start[y]
        if x < 0:
            y -= 1
            continue
        held[x + 1 : y] = Hold.KEEP
        held[x] = Hold.START
        for user in range(x + 1, y + 1):
            beside[user] = pairs.get((x, user), 0.0) + (skips.get((x, user), 0.0) if with_skips else 0.0)
        if with_skips:
            held[x + 1 + int(np.argmin(satellite[x + 1 :]))] = Hold.KEEP_IF_SAME
        y = x
    return beside, held


def _value_ops(arrays: ProblemArrays) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The producer and the consumers of each value, as (pointer, index)."""
    ops = arrays.ops
    values = np.arange(len(ops.value_src))
    ends = np.insert(ops.consumer_op, ops.consumer_ptr[:-1], ops.value_src)
    return ops.consumer_ptr + np.append(values, len(values)), ends


def _largest_bandwidth(cluster: Cluster) -> float:
    """Of a path between two devices; inf for one device."""
    off = cluster.bandwidth[~np.eye(cluster.num_devices, dtype=np.bool_)]
    return float(off.max()) if len(off) else np.inf


def _heaviest_path(graph: OpGraph, weight: NDArray[np.float64]) -> list[int]:
    """Ops of the path of the graph with the largest sum of weights; light detours are left out."""
    # a detour over a light op (the size of a tensor) would hide the value that goes beside it
    gain = weight - 0.02 * weight.mean()
    total, previous = gain.copy(), [-1] * graph.num_ops
    for i in range(graph.num_ops):
        for p in graph.predecessors[i]:
            if total[p] + gain[i] > total[i]:
                total[i], previous[i] = total[p] + gain[i], p
    path, i = [], int(np.argmax(total))
    while i >= 0:
        path.append(i)
        i = previous[i]
    return path[::-1]
