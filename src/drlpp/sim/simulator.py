"""The reference event simulator: readable, with a trace. For the semantics and what is left out see `drlpp.sim`."""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np

from drlpp.cost import (
    StageCosts,
    all_reduce_s,
    costs_of_plan,
    gradient_groups,
    resident_and_optimizer,
    share_of_parameters,
    wire_s,
)
from drlpp.cost.groups import for_groups
from drlpp.cost.schedule_memory import RETURNS_KEPT
from drlpp.graph.stages import Message
from drlpp.plan import Action, Plan, Prediction, Trace, TraceEvent, validate
from drlpp.plan.action import LOOKAHEAD
from drlpp.plan.trace import TraceKind
from drlpp.sim.members import of_members
from drlpp.sim.simulation import Simulation, Transfer
from drlpp.sim.steady_loads import steady_loads_s

_END_OF_ACTION, _ALL_REDUCE = 0, 1  # priorities


def simulate(plan: Plan) -> Simulation:
    """Simulates one iteration of a plan.

    Raises:
        PlanError, ScheduleError: the plan is not legal.
        InputError: it divides ops, and the graph says of no op how it may be divided.
    """
    validate(plan)
    for_each_group = for_groups(plan)
    simulation = _Iteration(for_each_group, costs_of_plan(for_each_group)).run()
    return simulation if for_each_group is plan else of_members(simulation, plan)


class _Iteration:
    """The state of one simulated iteration. Keys: s stage, m micro-batch, d device, k message."""

    def __init__(self, plan: Plan, costs: StageCosts) -> None:
        self.plan, self.costs, self.cluster = plan, costs, plan.cluster
        self.messages = plan.stage_graph.messages
        devices = [stage.devices for stage in plan.stages]
        self.resident, self.optimizer_s = resident_and_optimizer(costs, devices, self.cluster.num_devices)
        self.groups = gradient_groups(costs, devices)

        self.sends: dict[tuple[int, str], list[int]] = defaultdict(list)  # (s, phase) -> messages it produces
        self.returns: dict[int, list[int]] = defaultdict(list)  # s -> messages whose gradient it returns
        self.inputs: dict[tuple[int, str], int] = defaultdict(int)  # (s, phase) -> messages that it waits for
        for k, message in enumerate(self.messages):
            self.sends[message.src, message.phase].append(k)
            for t in message.dsts:
                self.inputs[t, message.phase] += 1
                if self._has_gradient(k):
                    self.returns[t].append(k)
        self.missing: dict[tuple[int, str, int], int] = {}  # (s, phase, m) -> inputs that are not known yet
        self.ready: dict[tuple[int, str, int], float] = defaultdict(float)  # when the known inputs have arrived
        for stage in plan.stages:
            for m in range(plan.num_microbatches):
                self.missing[stage.index, "forward", m] = self.inputs[stage.index, "forward"]
                self.missing[stage.index, "backward", m] = self.inputs[stage.index, "backward"] + sum(
                    len(self._receivers(k, m)) for k in self.sends[stage.index, "forward"] if self._has_gradient(k)
                )
        self.to_return = {  # (k, m, d) -> stages on d that still owe the gradient of message k
            (k, m, d): len(stages)
            for k in range(len(self.messages))
            if self._has_gradient(k)
            for m in range(plan.num_microbatches)
            for d, stages in self._receivers(k, m).items()
        }
        self.work_left: dict[int, int] = {  # gradient group -> (s, m) whose backward pass has not ended
            g: len(group.stages) * plan.num_microbatches for g, group in enumerate(self.groups)
        }
        self.groups_of = defaultdict(list)
        for g, group in enumerate(self.groups):
            for s in group.stages:
                self.groups_of[s].append(g)

        self.position = dict.fromkeys(plan.schedule, 0)
        self.running: dict[int, Action] = {}
        self.free_s: dict[int, float] = defaultdict(float)  # end of the last action of a device
        self.reduced_s: dict[int, float] = defaultdict(float)  # end of the last all-reduce of a device
        self.resource_free_s: dict[str, float] = defaultdict(float)  # channels and ports
        self.busy_s: dict[str, float] = defaultdict(float)
        self.compute_s: dict[int, float] = defaultdict(float)
        self.heap: list[tuple[float, int, int]] = []
        self.events: list[TraceEvent] = []
        self.transfers: list[Transfer] = []
        share = share_of_parameters(costs, devices, self.cluster.num_devices)
        self.gradient = costs.gradient_bytes * share  # [S, D], once the stage has run backward
        self.held = [float(r) for r in self.resident]  # bytes on each device, without what has yet to be read
        for stage in plan.stages:
            for d in {stage.device(m) for m in range(plan.num_microbatches)}:
                self.held[d] -= self.gradient[stage.index, d]
        self.memory = [[(0.0, size)] for size in self.held]
        self.kept: dict[tuple[int, int], int] = defaultdict(int)  # (s, d) -> returned gradients that are still kept

    def _has_gradient(self, k: int) -> bool:
        return self.messages[k].requires_grad and self.messages[k].phase == "forward"

    def _receivers(self, k: int, m: int) -> dict[int, list[int]]:
        """Device -> stages on it that consume message k for micro-batch m."""
        out: dict[int, list[int]] = {}
        for t in self.messages[k].dsts:
            out.setdefault(self.plan.stages[t].device(m), []).append(t)
        return out

    def run(self) -> Simulation:
        for d in self.plan.schedule:
            self._start_next(d)
        while self.heap:
            time, priority, sequence = heapq.heappop(self.heap)
            if priority == _END_OF_ACTION:
                self._end_action(sequence, time)
            else:
                self._all_reduce(sequence, time)
        return self._result()

    def _start_next(self, d: int) -> None:
        """Starts the next action of an idle device if the arrival of all of its inputs is known."""
        actions = self.plan.schedule.get(d, ())
        if d in self.running or self.position.get(d, 0) == len(actions):
            return
        action = actions[self.position[d]]
        start = self.free_s[d]
        if action.kind != "W":
            key = (action.stage, "forward" if action.kind == "F" else "backward", action.microbatch)
            if self.missing[key]:
                return
            start = max(start, self.ready[key])
        self.running[d] = action
        self.position[d] += 1
        heapq.heappush(self.heap, (self._compute(d, action, start), _END_OF_ACTION, d))

    def _compute(self, d: int, action: Action, start: float) -> float:
        """Records the action and its memory; returns when it ends."""
        s, kind, m = action
        forward, again = float(self.costs.forward_s[s, d]), float(self.costs.again_s[s, d])
        input_grad, weight_grad = float(self.costs.input_grad_s[s, d]), float(self.costs.weight_grad_s[s, d])
        remade = float((self.costs.again_bytes if kind == "B" else self.costs.remade_bytes)[s, d])
        held = float(self.costs.held_bytes[s, d])
        shared = self._shared(d, s, m)
        seconds = {"F": forward, "B": input_grad + weight_grad, "I": input_grad, "W": weight_grad}[kind]
        if kind in ("B", "I") and again:
            self._event(d, "compute", "recompute", s, m, start, start + again)
            seconds = again + seconds
        end = start + seconds
        self._event(d, "compute", kind, s, m, start + again if kind in ("B", "I") else start, end)
        self.compute_s[d] += seconds
        if kind == "F":
            self.held[d] += held - shared
        elif kind in ("B", "I"):
            self.held[d] += remade + (shared if kind == "I" else 0.0)
        ahead = self.position[d]
        waiting = sum(self._received(d, a) for a in self.plan.schedule[d][ahead : ahead + LOOKAHEAD])
        self._remember(d, start, waiting if kind == "F" else waiting + self._received(d, action))
        if kind in ("B", "W"):
            self.held[d] -= held + remade - (shared if kind == "B" else 0.0)
        if kind in ("B", "I") and self.kept[s, d] < RETURNS_KEPT:
            if self.kept[s, d] == 0:
                self.held[d] += self.gradient[s, d]
            self.kept[s, d] += 1
            self.held[d] += self._returned(d, s, m)
        self._remember(d, end, waiting)
        return end

    def _remember(self, d: int, time: float, buffers: float) -> None:
        size = self.held[d] + buffers
        if size != self.memory[d][-1][1]:
            self.memory[d].append((time, size))

    def _received(self, d: int, action: Action) -> float:
        """Bytes that an action reads from buffers of device d."""
        s, kind, m = action
        if kind == "W":
            return 0.0
        m = self._first(s, m)
        phase = "forward" if kind == "F" else "backward"
        size, members = sum(x.bytes for x in self._read_first(d, s, m) if x.phase == phase), self.cluster.members[d]
        if phase == "backward":
            for k in self.sends[s, "forward"]:
                if self._has_gradient(k):
                    size += self.messages[k].bytes * len(self._receivers(k, m).keys() - {d})
        return size * float(members)

    def _shared(self, d: int, s: int, m: int) -> float:
        """Bytes that stage s reads from stages of device d that hold them until they have the gradient back."""
        stages, size = self.plan.stages, 0.0
        for k, x in enumerate(self.messages):
            if s in x.dsts and self._has_gradient(k) and stages[x.src].device(m) == d:
                holds = self.costs.again_bytes[x.src, d] == 0
                size += x.bytes if holds and self._always(x.src, s, m) else 0.0
        return size

    def _first(self, s: int, m: int) -> int:
        """The first micro-batch of the replica that runs m."""
        order = self.plan.stages[s].turns
        return order.index(order[m % len(order)])

    def _always(self, src: int, s: int, m: int) -> bool:
        """Whether the replica that runs m of stage s gets all of its micro-batches from one replica of another."""
        ours, theirs = self.plan.stages[s].turns, self.plan.stages[src].turns
        turns = [i for i, r in enumerate(ours) if r == ours[m % len(ours)]]
        return len(ours) % len(theirs) == 0 and len({theirs[i % len(theirs)] for i in turns}) == 1

    def _returned(self, d: int, s: int, m: int) -> float:
        """Bytes of gradients that a backward pass of stage s leaves for other devices."""
        m = self._first(s, m)
        size = sum(x.bytes for x in self._read_first(d, s, m) if x.requires_grad and x.phase == "forward")
        return size * float(self.cluster.members[d])

    def _read_first(self, d: int, s: int, m: int) -> list[Message]:
        """Messages from other devices of which stage s is the first reader on device d."""
        return [
            x
            for k, x in enumerate(self.messages)
            if s in x.dsts and self.plan.stages[x.src].device(m) != d and self._receivers(k, m)[d][0] == s
        ]

    def _event(
        self, d: int, stream: str, kind: TraceKind, s: int, m: int, start: float, end: float, size: float = 0.0
    ) -> None:
        self.events.append(
            TraceEvent(device=d, stream=stream, kind=kind, stage=s, microbatch=m, start_s=start, end_s=end, bytes=size)
        )

    def _end_action(self, d: int, time: float) -> None:
        s, kind, m = self.running.pop(d)
        self.free_s[d] = time
        if kind != "W":
            phase = "forward" if kind == "F" else "backward"
            for k in self.sends[s, phase]:
                for q, stages in self._receivers(k, m).items():
                    arrival = self._transfer(k, m, d, q, time)
                    for t in stages:
                        self._input(t, phase, m, arrival)
            if phase == "backward":
                for k in self.returns[s]:
                    self.to_return[k, m, d] -= 1
                    if self.to_return[k, m, d] == 0:
                        src = self.messages[k].src
                        arrival = self._transfer(k, m, d, self.plan.stages[src].device(m), time, gradient=True)
                        self._input(src, "backward", m, arrival)
        if kind in ("B", "W"):
            for g in self.groups_of[s]:
                self.work_left[g] -= 1
                if self.work_left[g] == 0:
                    heapq.heappush(self.heap, (time, _ALL_REDUCE, g))
        self._start_next(d)

    def _input(self, s: int, phase: str, m: int, arrival: float) -> None:
        """An input of stage s arrives at `arrival`; starts the device that waits for it if it was the last."""
        key = (s, phase, m)
        self.missing[key] -= 1
        self.ready[key] = max(self.ready[key], arrival)
        if self.missing[key] == 0:
            self._start_next(self.plan.stages[s].device(m))

    def _transfer(self, k: int, m: int, src: int, dst: int, time: float, *, gradient: bool = False) -> float:
        """Requests a transfer at `time`; returns when it has arrived."""
        if src == dst:
            return time
        message = self.messages[k]
        a, b = (self.cluster.hosts[self.cluster.devices[d].host] for d in (src, dst))
        resources: tuple[str, ...] = (f"{src}->{dst}",)
        latency = 0.0
        if message.transfer_s is not None:
            seconds = message.transfer_s
        else:
            path = self.cluster.path(src, dst)
            seconds, latency = wire_s(path, message.bytes), path.latency_s
            if a is not b:
                resources = (f"host {a.name} out", f"host {b.name} in")
        start = max(time, *(self.resource_free_s[r] for r in resources))
        end = start + seconds
        self._occupy(resources, start, end)
        arrival = end + latency
        stage = message.src if not gradient else message.dsts[0]
        self._event(src, f"link:{src}->{dst}", "send", stage, m, start, arrival, message.bytes)
        self.transfers.append(
            Transfer(
                message=k,
                microbatch=m,
                src=src,
                dst=dst,
                gradient=gradient,
                bytes=message.bytes,
                resources=resources,
                request_s=time,
                start_s=start,
                end_s=end,
                arrival_s=arrival,
            )
        )
        return arrival

    def _occupy(self, resources: tuple[str, ...], start: float, end: float) -> None:
        for r in resources:
            self.resource_free_s[r] = end
            self.busy_s[r] += end - start

    def _all_reduce(self, g: int, time: float) -> None:
        group = self.groups[g]
        names = sorted({self.cluster.hosts[self.cluster.devices[d].host].name for d in group.devices})
        ports = tuple(f"host {n} {way}" for n in names for way in ("out", "in")) if len(names) > 1 else ()
        start = max([time, *(self.reduced_s[d] for d in group.devices), *(self.resource_free_s[p] for p in ports)])
        end = start + all_reduce_s(self.cluster, group.devices, group.num_bytes)
        self._occupy(ports, start, end)
        for d in group.devices:
            self.reduced_s[d] = end
            self._event(d, "all-reduce", "all-reduce", group.stages[0], -1, start, end, group.num_bytes)

    def _result(self) -> Simulation:
        plan, num_devices = self.plan, self.cluster.num_devices
        iteration = 0.0
        for d in plan.used_devices:
            start = max(self.free_s[d], self.reduced_s[d])
            end = start + float(self.optimizer_s[d])
            if end > start:
                self._event(d, "compute", "optimizer", -1, -1, start, end)
                self.compute_s[d] += end - start
            iteration = max(iteration, end)
        self.events.sort(key=lambda e: (e.start_s, e.device, e.stream))
        peak = [max(size for _, size in line) for line in self.memory]
        excess = np.array(peak) - self.cluster.memory_bytes
        samples = plan.graph.samples_per_microbatch * plan.num_microbatches
        return Simulation(
            plan=plan,
            prediction=Prediction(
                iteration_time_s=iteration,
                bottleneck_s=float(steady_loads_s(plan, self.costs).max()),
                throughput_samples_per_s=samples / iteration if iteration else float("inf"),
                peak_memory_bytes=tuple(peak),
                bubble_fraction=tuple(
                    1.0 - self.compute_s[d] / iteration if iteration else 0.0 for d in range(num_devices)
                ),
            ),
            trace=Trace(
                source="simulated",
                num_devices=num_devices,
                events=tuple(self.events),
                memory=tuple(tuple(line) for line in self.memory),
                iteration_time_s=iteration,
            ),
            transfers=tuple(self.transfers),
            infeasible=tuple((int(d), float(excess[d])) for d in np.flatnonzero(excess > 0)),
            busy_s=dict(self.busy_s),
        )
