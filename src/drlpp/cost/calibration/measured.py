"""What traces say of costs: seconds of the actions of each stage on each device, of transfers and of all-reduces.

Equal things (the micro-batches of a stage, messages of one size over one path) are one measurement: the mean of the
logarithms without the smallest and the largest fifth, and the deviation of that mean. Left out: actions of the first
step, which warms up, are the caller's to leave out; buckets of all-reduces on devices that sum over several sets of
devices, since traces do not say which set a bucket belongs to; those of groups that divide ops, and under ZeRO-1, whose
sums have other forms.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from drlpp.cost.divided_plans import divided
from drlpp.cost.gradients import gradient_groups
from drlpp.errors import InputError
from drlpp.plan import Plan, Trace, TraceEvent

_LEAST_DEVIATION = 0.005
"""Part of a measured time by which it may always be off."""
_TRIMMED = 0.2
_TRIMMED_DEVIATION = 1.1
"""Of the trimmed mean of many normal numbers, times the square root of their number, in their standard deviations."""
_MAD = 1.4826
"""Standard deviation of normal numbers over the median of their distances from the median."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seconds:
    """A measured time.

    Attributes:
        typical_s: of all that are equal.
        deviation: standard deviation of the logarithm of `typical_s`.
        count: how many were equal.
    """

    typical_s: float
    deviation: float
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class ActionTime:
    """Seconds of an action (F, B, I or W) of a stage on a device."""

    stage: int
    device: int
    kind: str
    seconds: Seconds


@dataclasses.dataclass(frozen=True, slots=True)
class TransferTime:
    """Seconds of messages of a size from one device to another."""

    src: int
    dst: int
    bytes: float
    seconds: Seconds


@dataclasses.dataclass(frozen=True, slots=True)
class AllReduceTime:
    """Seconds of all-reduces of a size over some devices."""

    devices: tuple[int, ...]
    bytes: float
    seconds: Seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurements:
    """What steps of one plan measured.

    Attributes:
        plan: that ran.
        actions, transfers, all_reduces: see there.
        update_s: device -> seconds of the optimizer's step.
        iteration_time_s: the median step.
    """

    plan: Plan
    actions: tuple[ActionTime, ...]
    transfers: tuple[TransferTime, ...]
    all_reduces: tuple[AllReduceTime, ...]
    update_s: dict[int, Seconds]
    iteration_time_s: float

    def without(self, devices: Collection[int], hosts: Collection[frozenset[int]]) -> Measurements:
        """The same without actions of some devices, and without transfers between (or inside of) some hosts."""
        host = self.plan.cluster.host_index.tolist()
        away = {*devices}
        return dataclasses.replace(
            self,
            actions=tuple(a for a in self.actions if a.device not in away),
            transfers=tuple(t for t in self.transfers if frozenset((host[t.src], host[t.dst])) not in hosts),
            all_reduces=tuple(a for a in self.all_reduces if not hosts),
            update_s={d: s for d, s in self.update_s.items() if d not in away},
        )


def measurements(plan: Plan, traces: Sequence[Trace]) -> Measurements:
    """Gathers what traces of steps of a plan measured.

    Raises:
        InputError: there is no trace, or a trace is not of this plan.
    """
    if not traces:
        raise InputError("there is no trace to calibrate from: give at least one measured step")
    for trace in traces:
        _check(plan, trace)
    actions: dict[tuple[int, int, str], list[float]] = defaultdict(list)
    transfers: dict[tuple[int, int, float], list[float]] = defaultdict(list)
    all_reduces: dict[tuple[tuple[int, ...], float], list[float]] = defaultdict(list)
    updates: dict[int, list[float]] = defaultdict(list)
    for trace in traces:
        again = {(e.device, e.stage, e.microbatch): e.end_s - e.start_s for e in trace.events if e.kind == "recompute"}
        for e in trace.events:
            seconds = e.end_s - e.start_s
            if e.kind in ("F", "B", "I", "W"):
                more = again.get((e.device, e.stage, e.microbatch), 0.0) if e.kind in ("B", "I") else 0.0
                actions[e.stage, e.device, e.kind].append(seconds + more)
            elif e.kind == "send":
                transfers[e.device, e.receiver, e.bytes].append(seconds)
            elif e.kind == "optimizer":
                updates[e.device].append(seconds)
        for devices, size, seconds in _all_reduces(plan, trace):
            all_reduces[devices, size].append(seconds)
    return Measurements(
        plan=plan,
        actions=tuple(ActionTime(s, d, k, t) for (s, d, k), v in actions.items() if (t := _seconds(v))),
        transfers=tuple(TransferTime(a, b, n, t) for (a, b, n), v in transfers.items() if (t := _seconds(v))),
        all_reduces=tuple(AllReduceTime(d, n, t) for (d, n), v in all_reduces.items() if (t := _seconds(v))),
        update_s={d: t for d, v in updates.items() if (t := _seconds(v))},
        iteration_time_s=float(np.median([trace.iteration_time_s for trace in traces])),
    )


def _seconds(values: Sequence[float]) -> Seconds | None:
    """The times of equal things as one; None if they took no time."""
    logs = np.sort(np.log([v for v in values if v > 0]))
    if not len(logs):
        return None
    cut = int(_TRIMMED * len(logs))
    spread = _MAD * float(np.median(np.abs(logs - np.median(logs)))) * _TRIMMED_DEVIATION / np.sqrt(len(logs))
    typical = float(np.exp(logs[cut : len(logs) - cut].mean()))
    return Seconds(typical, float(np.hypot(_LEAST_DEVIATION, spread)), len(logs))


def _check(plan: Plan, trace: Trace) -> None:
    """Raises InputError unless the trace is a step of the plan."""
    planned = {(d, a.kind, a.stage, a.microbatch) for d, actions in plan.schedule.items() for a in actions}
    done = {(e.device, e.kind, e.stage, e.microbatch) for e in trace.events if e.kind in ("F", "B", "I", "W")}
    if trace.num_devices != plan.cluster.num_devices or planned != done:
        odd = sorted(planned ^ done)
        device, kind, stage, microbatch = odd[0] if odd else (trace.num_devices - 1, "F", 0, 0)
        where = "plan" if (device, kind, stage, microbatch) in planned else "trace"
        raise InputError(
            f"the trace is not a step of this plan: only the {where} has action {stage}{kind}{microbatch} on device "
            f"{device}: give the trace of `drlpp run PLAN --trace`"
        )


def _all_reduces(plan: Plan, trace: Trace) -> Iterable[tuple[tuple[int, ...], float, float]]:
    """Devices, bytes and seconds of each all-reduce: from when the last device begins to when the last one ends."""
    if plan.training.zero1 or plan.grouping.divides:
        return
    sets = {g.devices for g in gradient_groups(divided(plan).costs, [s.devices for s in plan.stages])}
    once = [devices for devices in sets if all(devices == other or not {*devices} & {*other} for other in sets)]
    mine: dict[int, list[TraceEvent]] = defaultdict(list)
    for e in trace.events:
        if e.kind == "all-reduce":
            mine[e.device].append(e)
    for devices in once:
        for buckets in zip(*(mine[d] for d in devices), strict=False):
            if len({e.bytes for e in buckets}) == 1:
                start, end = max(e.start_s for e in buckets), max(e.end_s for e in buckets)
                yield devices, buckets[0].bytes, end - start
