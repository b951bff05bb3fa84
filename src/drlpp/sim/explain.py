"""Why an iteration takes as long as it does: the bottleneck, the bubbles, the critical path, and what would help most.

The critical path is followed back from the end of the iteration through exact times: an action starts when the one
before it or a message ends, a transfer when it was requested or when a port became free. Changes are not estimated:
each one is made and the iteration replayed. Those of kind ``plan`` the user can make at once; those of kind
``hardware`` say where money would help.

Left out: changes of several things at once (that is planning).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import numpy as np

from drlpp.cost import PlacedStages
from drlpp.cost.groups import for_groups
from drlpp.cost.placement import place_assignment
from drlpp.cost.problem_arrays import problem_arrays
from drlpp.cost.problem_times import problem_times
from drlpp.plan import Plan, TraceEvent
from drlpp.problem import PlanningProblem
from drlpp.schedules import SCHEDULES, FlatSchedule, from_schedule, generate, schedules_for
from drlpp.schedules.replay import replay
from drlpp.sim.simulation import Simulation, Transfer
from drlpp.sim.simulator import simulate
from drlpp.units import format_bytes, format_time

MOST_MOVES = 100
"""Moves of single ops to another stage that are tried."""


@dataclasses.dataclass(frozen=True, slots=True)
class CriticalStep:
    """A piece of the critical path.

    Attributes:
        kind: what happened. A transfer that waits for a port is preceded by what occupied the port.
        where: ``device 3``, or the link ``0->1``.
        text: for people.
        start_s, end_s: seconds since the iteration began.
    """

    kind: Literal["compute", "transfer", "all-reduce", "optimizer"]
    where: str
    text: str
    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One change, and the iteration after it.

    Attributes:
        kind: ``plan`` or ``hardware``.
        text: what is changed.
        iteration_time_s: after the change.
        over_memory_bytes: worst excess over a device's memory after the change; 0 if it fits.
        saves_s: seconds of the iteration that it saves; negative if it costs some.
    """

    kind: Literal["plan", "hardware"]
    text: str
    iteration_time_s: float
    over_memory_bytes: float
    saves_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a plan takes as long as it does.

    Attributes:
        iteration_time_s: of the plan.
        bottleneck: the busiest thing: a device, a port, a channel, or the all-reduces of a device.
        bottleneck_busy_fraction: the part of the iteration in which it is busy.
        busy_s: seconds that each thing is busy, the busiest first.
        bubble_fraction: per device, the part of the iteration in which it does not compute.
        over_memory: (device, bytes) of the devices whose memory does not suffice.
        critical_path: from the start of the iteration to its end.
        critical_path_s: seconds of the critical path by (kind, where), the longest first.
        changes: changes that were tried, the best first: those that fit the memory, then by time.
    """

    iteration_time_s: float
    bottleneck: str
    bottleneck_busy_fraction: float
    busy_s: dict[str, float]
    bubble_fraction: tuple[float, ...]
    over_memory: tuple[tuple[int, float], ...]
    critical_path: tuple[CriticalStep, ...]
    critical_path_s: dict[tuple[str, str], float]
    changes: tuple[Change, ...]

    def best_change(self, kind: Literal["plan", "hardware"]) -> Change | None:
        """The change of a kind that helps most; None if none saves time or memory."""
        over = max((size for _, size in self.over_memory), default=0.0)
        for change in self.changes:
            helps = change.over_memory_bytes < over or change.saves_s > 1e-6 * self.iteration_time_s
            if change.kind == kind and helps and change.over_memory_bytes <= over:
                return change
        return None

    def lines(self) -> list[str]:
        """The explanation for people, one sentence per line."""
        used = [(d, b) for d, b in enumerate(self.bubble_fraction) if b < 1.0]
        worst = max(used, key=lambda pair: pair[1], default=(0, 0.0))
        out = [
            f"The busiest is {self.bottleneck}: {self.bottleneck_busy_fraction:.0%} of "
            f"{format_time(self.iteration_time_s)}.",
            f"Bubbles: {sum(b for _, b in used) / max(1, len(used)):.0%} of the time of the devices in use, at most "
            f"{worst[1]:.0%} (device {worst[0]}).",
        ]
        out += [f"Device {d} lacks {format_bytes(size)} of memory." for d, size in self.over_memory]
        parts = [f"{kind} on {where} {format_time(s)}" for (kind, where), s in list(self.critical_path_s.items())[:4]]
        out.append(f"Critical path: {', '.join(parts)}.")
        for kind, words in (("plan", "What would help most in the plan"), ("hardware", "Of the hardware")):
            change = self.best_change(kind)  # type: ignore[arg-type]
            if change is not None:
                saved = change.saves_s / self.iteration_time_s if self.iteration_time_s else 0.0
                out.append(f"{words}: {change.text} ({format_time(change.iteration_time_s)}, {saved:+.1%} saved).")
        return out


def explain(what: Plan | Simulation) -> Explanation:
    """Explains an iteration of a plan, or one that was simulated. Raises as `simulate` does."""
    simulation = simulate(what) if isinstance(what, Plan) else what
    plan, time = simulation.plan, simulation.prediction.iteration_time_s
    busy = _busy(simulation)
    path = tuple(_critical_path(simulation))
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for step in path:
        seconds[step.kind, step.where] += step.end_s - step.start_s
    changes = sorted(_changes(plan, time), key=lambda c: (c.over_memory_bytes, c.iteration_time_s))
    first = next(iter(busy), "nothing")
    return Explanation(
        iteration_time_s=time,
        bottleneck=first,
        bottleneck_busy_fraction=busy[first] / time if time else 0.0,
        busy_s=busy,
        bubble_fraction=simulation.prediction.bubble_fraction,
        over_memory=simulation.infeasible,
        critical_path=path,
        critical_path_s=dict(sorted(seconds.items(), key=lambda item: -item[1])),
        changes=tuple(changes),
    )


def _busy(simulation: Simulation) -> dict[str, float]:
    """Seconds by thing; the transfers of a channel or port, the compute and the all-reduces of a device."""
    busy: dict[str, float] = defaultdict(float)
    for event in simulation.trace.events:
        if event.stream == "compute":
            busy[f"device {event.device}"] += event.end_s - event.start_s
        elif event.stream == "all-reduce":
            busy[f"all-reduce on device {event.device}"] += event.end_s - event.start_s
    for name, seconds in simulation.busy_s.items():
        busy[name if name.startswith("host") else f"link {name}"] += seconds
    return dict(sorted(busy.items(), key=lambda item: (-item[1], item[0])))


def _critical_path(simulation: Simulation) -> Iterator[CriticalStep]:
    """The steps from the first to the last."""
    steps: list[CriticalStep] = []
    computed: dict[tuple[int, float], TraceEvent] = {}
    reduced: dict[tuple[int, float], TraceEvent] = {}
    for event in simulation.trace.events:
        if event.end_s > event.start_s:
            if event.stream == "compute":
                computed[event.device, event.end_s] = event
            elif event.stream == "all-reduce":
                reduced[event.device, event.end_s] = event
    arrivals: dict[tuple[int, float], Transfer] = {}
    occupied: dict[tuple[str, float], TraceEvent | Transfer] = {}
    for transfer in simulation.transfers:
        arrivals[transfer.dst, transfer.arrival_s] = transfer
        for name in transfer.resources:
            occupied[name, transfer.end_s] = transfer
    group_devices: dict[tuple[float, float], list[int]] = defaultdict(list)
    for event in reduced.values():
        group_devices[event.start_s, event.end_s].append(event.device)
        for port in _ports(simulation.plan, event.device):
            occupied.setdefault((port, event.end_s), event)

    time = simulation.prediction.iteration_time_s
    here: TraceEvent | Transfer | None = next(
        (e for e in simulation.trace.events if e.end_s == time and (e.device, e.end_s) in computed | reduced), None
    )
    while here is not None:
        if isinstance(here, Transfer):
            link = f"{here.src}->{here.dst}"
            what = f"{'gradient' if here.gradient else 'message'} of {format_bytes(here.bytes)}"
            text = f"{what}, micro-batch {here.microbatch}"
            steps.append(CriticalStep("transfer", link, text, here.start_s, here.arrival_s))
            before = next((occupied[r, here.start_s] for r in here.resources if (r, here.start_s) in occupied), None)
            here = before if here.start_s > here.request_s else computed.get((here.src, here.request_s))
            continue
        where, start = f"device {here.device}", here.start_s
        if here.stream == "all-reduce":
            steps.append(CriticalStep("all-reduce", where, f"of {format_bytes(here.bytes)}", start, here.end_s))
            members = group_devices[start, here.end_s]
            ports = [port for d in members for port in _ports(simulation.plan, d)]
        else:
            kind: Literal["optimizer", "compute"] = "optimizer" if here.kind == "optimizer" else "compute"
            text = kind if kind == "optimizer" else f"{here.stage}{here.kind}{here.microbatch}"
            steps.append(CriticalStep(kind, where, text, start, here.end_s))
            members, ports = [here.device], []
        causes: list[TraceEvent | Transfer | None] = []
        causes += [computed.get((d, start)) for d in members]
        causes += [reduced.get((d, start)) for d in members]
        causes += [arrivals.get((d, start)) for d in members]
        causes += [occupied.get((port, start)) for port in ports]
        here = next((cause for cause in causes if cause is not None), None)
    yield from reversed(steps)


def _ports(plan: Plan, device: int) -> tuple[str, str]:
    name = plan.cluster.hosts[plan.cluster.devices[device].host].name
    return f"host {name} out", f"host {name} in"


def _changes(of: Plan, time: float) -> Iterator[Change]:
    plan, groups = for_groups(of), of.grouping.groups
    problem = PlanningProblem(plan.graph, plan.cluster, plan.training)
    arrays = problem_arrays(problem)
    assignment = plan.assignment
    placed = place_assignment(problem, arrays, assignment)
    flat = from_schedule(plan.schedule, placed.used)

    def change(kind: Literal["plan", "hardware"], text: str, new: PlacedStages, order: FlatSchedule) -> Change:
        after, peak = replay(new, order)
        over = max(0.0, float((peak - new.memory_bytes).max()))
        return Change(kind, text, after, over, time - after)

    for name in schedules_for(placed):
        if name != plan.schedule_name:
            yield change("plan", f"the schedule {name}", placed, generate(name, placed))
    name = plan.schedule_name if plan.schedule_name in SCHEDULES else "1f1b"
    for s, settings in enumerate(assignment.settings):
        new = place_assignment(problem, arrays, assignment.with_settings(s, settings.toggled))
        yield change("plan", f"{'no ' if settings.recompute else ''}recomputation in stage {s}", new, flat)
    for op, s in _moves(plan, problem):
        labels = assignment.stage_of_op.copy()
        labels[op] = s
        new = place_assignment(problem, arrays, dataclasses.replace(assignment, stage_of_op=labels))
        text = f"op {plan.graph.ops[op].name!r} in stage {s} instead of {assignment.stage_of_op[op]}"
        # moves change which stages depend on each other, so the order is made anew
        yield change("plan", text, new, generate(name if name in schedules_for(new) else "1f1b", new))

    yield change(
        "hardware", "twice the bandwidth between hosts", placed._replace(port_bandwidth=placed.port_bandwidth * 2), flat
    )
    yield change(
        "hardware", "twice the bandwidth inside hosts", placed._replace(link_bandwidth=placed.link_bandwidth * 2), flat
    )
    for u, d in enumerate(placed.used.tolist()):
        action_s = placed.action_s.copy()
        action_s[:, placed.slot_device == u] /= 2
        name = f"device{'s' if len(groups[d]) > 1 else ''} {', '.join(map(str, groups[d]))}"
        yield change("hardware", f"{name} twice as fast", placed._replace(action_s=action_s), flat)


def _moves(plan: Plan, problem: PlanningProblem) -> Iterator[tuple[int, int]]:
    """Legal moves of single ops to the nearest other stages, those of the longest ops first."""
    graph, labels = plan.graph, plan.stage_of_op
    sizes = np.bincount(labels, minlength=plan.num_stages)
    left = MOST_MOVES
    for op in np.argsort(-problem_times(problem).total_s.max(axis=0), kind="stable").tolist():
        s = int(labels[op])
        if sizes[s] == 1:
            continue
        low = max((int(labels[i]) for i in graph.predecessors[op]), default=0)
        high = min((int(labels[i]) for i in graph.successors[op]), default=plan.num_stages - 1)
        for t in (s - 1, s + 1):
            if low <= t <= high and left:
                left -= 1
                yield op, t
