"""Runs a plan on this machine as if on its cluster: waits in the place of computation, messages paced to the links.

The executor, the messages and the schedule are the real ones. An action waits for as long as the cost model says. A
message is a real one with a payload of at most `PAYLOAD_BYTES`; it carries the time at which it would arrive on the
cluster, and the receiver does not take it before. What devices and links do is up to an `EmulatedWorld`, which may
differ from what the plan believes. Channels, host ports and all-reduces are occupied first come first
served, by the rules of the simulator (`drlpp.sim`), through a table that all ranks share. So what is measured is the
prediction's arithmetic under real concurrency, not its cost model.

Each rank has a clock of the emulated cluster, on which waits take exactly as long as they should. Real time only keeps
up with it, so that ranks ask for links about in the order in which they would: a process that wakes up late, since the
machine is busy, is late on the wall and not in what is measured. Seconds are stretched by a time scale, so that this
order holds. Emulation needs no model, so imported profiles can be emulated too. All ranks have to be on one machine.
"""

from __future__ import annotations

import dataclasses
import fcntl
import math
import mmap
import struct
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from drlpp.cost import (
    GradientGroup,
    StageCosts,
    all_reduce_s,
    gradient_groups,
    resident_and_optimizer,
    wire_s,
)
from drlpp.cost.divided_plans import DividedPlan, divided
from drlpp.cost.moves import move_s, moved_bytes
from drlpp.graph.stages import Message
from drlpp.plan import Plan, TraceEvent, validate
from drlpp.runtime.emulated_world import EmulatedWorld
from drlpp.runtime.executor import Executor, Tensors
from drlpp.runtime.observe.heartbeat import Where
from drlpp.runtime.observe.recording import Recorder
from drlpp.runtime.observe.stopwatch import Stopwatch
from drlpp.runtime.transfers.channel import Channel, TensorSpec
from drlpp.runtime.transfers.planned import Slot, StageSlots, Transfer, plan_transfers, stage_slots
from drlpp.runtime.transfers.waiting import time_limit_s

PAYLOAD_BYTES = 1 << 16
ACTION_S = 0.02
"""The mean action of an emulated run takes this long, unless the user gives a time scale."""
_HEADER = struct.Struct("d")
Parts = tuple[float, float]
"""Seconds of ops, and of collectives inside a group."""


def default_time_scale(plan: Plan, costs: StageCosts) -> float:
    """The time scale at which the mean forward or backward pass takes `ACTION_S`."""
    passes = [
        float(seconds[s.index, s.device(m)])
        for s in plan.stages
        for m in range(min(plan.num_microbatches, len(s.devices)))
        for seconds in (costs.forward_s, costs.backward_s)
    ]
    mean = sum(passes) / len(passes)
    return ACTION_S / mean if mean > 0 else 1.0


class EmulatedClock(Stopwatch):
    """What time it is for one rank of the emulated cluster, in seconds of `time.perf_counter`."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self._now_s = 0.0

    def begin(self, at_s: float) -> None:
        """A step begins."""
        super().begin(at_s)
        self._now_s = at_s

    def now(self) -> float:
        """The present moment."""
        return self._now_s

    def wait(self, seconds: float) -> None:
        """Lets time go by."""
        self.wait_until(self._now_s + seconds)

    def wait_until(self, moment: float) -> None:
        """Waits for a moment, unless it is over."""
        self._now_s = max(self._now_s, moment)
        while (left := self._now_s - time.perf_counter()) > 0:
            time.sleep(left)


class PacedNetwork:
    """The channels, ports and all-reduces of the emulated cluster: when each is free again, shared by all ranks.

    Args:
        made: what is run, on the cluster of the world.
        world: what links really do.
        path: of a file that all ranks open; the table is kept in it.
        time_scale: emulated seconds per predicted second.
        clock: of this rank.

    Attributes:
        groups: devices that sum gradients.
        step: the present one, counted from 1.
    """

    def __init__(
        self, made: DividedPlan, world: EmulatedWorld, path: Path, time_scale: float, clock: EmulatedClock
    ) -> None:
        self.step = 0
        self._clock = clock
        plan = made.plan
        self.groups: list[GradientGroup] = gradient_groups(made.costs, [s.devices for s in plan.stages])
        self._cluster = plan.cluster
        self._world, self._noise = world, world.noise(dist.get_rank())
        self._num_microbatches = plan.num_microbatches
        self._scale = time_scale
        d, h, g = plan.cluster.num_devices, len(plan.cluster.hosts), len(self.groups)
        sizes = {"begin": 1, "channel": d * d, "out": h, "in": h, "reducing": d}
        sizes |= {"left": g, "ready": g, "start": g, "end": g}
        self._file = path.open("r+b")
        self._file.truncate(max(1, sum(sizes.values())) * 8)
        self._map = mmap.mmap(self._file.fileno(), 0)
        table = np.frombuffer(self._map, dtype=np.float64)
        offsets = np.cumsum([0, *sizes.values()])
        self._table = {name: table[a : a + n] for (name, n), a in zip(sizes.items(), offsets, strict=False)}

    def begin(self) -> None:
        """Starts a step now. One rank calls this, before the others begin."""
        self._table["begin"][0] = time.perf_counter()
        for g, group in enumerate(self.groups):
            self._table["left"][g] = len(group.stages) * self._num_microbatches
            self._table["ready"][g] = 0.0
            self._table["end"][g] = math.inf

    @property
    def begin_s(self) -> float:
        """When the step began."""
        return float(self._table["begin"][0])

    def transfer(self, message: Message, src: int, dst: int) -> tuple[float, float]:
        """Requests a transfer now; returns when it begins and when it has arrived."""
        now = self._clock.now()
        path = self._cluster.path(src, dst)
        a, b = self._cluster.devices[src].host, self._cluster.devices[dst].host
        channel = [("channel", src * self._cluster.num_devices + dst)]
        slower = self._world.link_factor(frozenset({a, b}), self.step) * self._noise.factor()
        if message.transfer_s is not None:
            return self._occupy(now, channel, message.transfer_s * slower, 0.0)
        ports = [("out", a), ("in", b)]
        wire = wire_s(path, message.bytes) * slower
        return self._occupy(now, channel if a == b else ports, wire, path.latency_s * slower)

    def backward_done(self, stage: int) -> None:
        """A backward pass of a stage has ended on this rank; the last one of a group starts its all-reduce."""
        for g, group in enumerate(self.groups):
            if stage in group.stages:
                with _Lock(self._file.fileno()):
                    self._table["left"][g] -= 1
                    last = self._table["left"][g] == 0
                    ready = self._table["ready"][g] = max(self._table["ready"][g], self._clock.now())
                if last:
                    hosts = frozenset(self._cluster.devices[d].host for d in group.devices)
                    ports = [(way, h) for h in hosts for way in ("out", "in")] if len(hosts) > 1 else []
                    slower = self._world.link_factor(hosts, self.step) * self._noise.factor()
                    seconds = all_reduce_s(self._cluster, group.devices, group.num_bytes) * slower
                    resources = ports + [("reducing", d) for d in group.devices]
                    start, end = self._occupy(float(ready), resources, seconds, 0.0)
                    self._table["start"][g] = start
                    self._table["end"][g] = end

    def all_reduces_done(self, device: int) -> list[tuple[GradientGroup, float, float]]:
        """Waits until all all-reduces of a device have ended on the emulated cluster; returns begin and end of each."""
        mine = [g for g, group in enumerate(self.groups) if device in group.devices]
        while any(math.isinf(self._table["end"][g]) for g in mine):
            time.sleep(5e-4)
        spans = [(self.groups[g], float(self._table["start"][g]), float(self._table["end"][g])) for g in mine]
        self._clock.wait_until(max((end for *_, end in spans), default=0.0))
        return spans

    def _occupy(
        self, now: float, resources: Sequence[tuple[str, int]], seconds: float, latency_s: float
    ) -> tuple[float, float]:
        with _Lock(self._file.fileno()):
            start = max([now, *(float(self._table[name][i]) for name, i in resources)])
            end = start + seconds * self._scale
            for name, i in resources:
                self._table[name][i] = end
        return start, end + latency_s * self._scale


class _Lock:
    """A lock of all processes that have the same file open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


class PacedChannel(Channel):
    """A `Channel` whose messages arrive when they would on the emulated cluster."""

    def __init__(
        self,
        plan: Plan,
        device: int,
        transfers: Sequence[Transfer],
        rank_of: Mapping[int, int],
        network: PacedNetwork,
        recorder: Recorder,
        clock: EmulatedClock,
    ) -> None:
        self._messages = plan.stage_graph.messages
        specs = {
            t.slot: (TensorSpec((_payload_bytes(self._messages[t.slot.message]),), torch.uint8),) for t in transfers
        }
        super().__init__(
            device, transfers, [specs] * plan.num_microbatches, rank_of, torch.device("cpu"), one_queue_per_pair=False
        )
        self._network = network
        self._recorder = recorder
        self._clock = clock

    def send(self, transfer: Transfer, tensors: Sequence[torch.Tensor]) -> None:
        """Requests the emulated transfer and sends its payload, headed by the time of arrival."""
        message = self._messages[transfer.slot.message]
        start, arrival = self._network.transfer(message, transfer.src, transfer.dst)
        payload = torch.zeros(_payload_bytes(message), dtype=torch.uint8)
        payload[: _HEADER.size] = torch.frombuffer(bytearray(_HEADER.pack(arrival)), dtype=torch.uint8)
        self._recorder.add(
            TraceEvent(
                device=transfer.src,
                stream=f"link:{transfer.src}->{transfer.dst}",
                kind="send",
                stage=message.src if transfer.slot.content == "value" else message.dsts[0],
                microbatch=transfer.microbatch,
                start_s=start,
                end_s=arrival,
                bytes=message.bytes,
            )
        )
        super().send(transfer, [payload])

    def receive(self, transfer: Transfer) -> Sequence[torch.Tensor]:
        """Waits for the message and for its time of arrival; there is nothing in it."""
        tensors = super().receive(transfer)
        (arrival,) = _HEADER.unpack(tensors[0][: _HEADER.size].numpy().tobytes())
        self._clock.wait_until(arrival)
        return ()


def _payload_bytes(message: Message) -> int:
    return max(_HEADER.size, min(PAYLOAD_BYTES, int(message.bytes)))


@dataclasses.dataclass(frozen=True)
class WaitStage:
    """A `StageCompute` that waits for the time that the stage is predicted to take.

    Attributes:
        slots: that the stage writes.
        forward_s, input_grad_s, weight_grad_s: emulated seconds of the three parts: of ops, and of collectives inside
            the group that runs them.
        again_s: the same of the second forward pass, where the stage recomputes.
        seconds: gives those that such parts take now.
        clock: of the rank.
    """

    slots: StageSlots
    forward_s: Parts
    input_grad_s: Parts
    weight_grad_s: Parts
    again_s: Parts
    seconds: Callable[[Sequence[Parts]], float]
    clock: EmulatedClock

    def forward(self, microbatch: int, values: Sequence[Tensors]) -> Sequence[Tensors]:
        """F. See `StageCompute`."""
        return self._after([self.forward_s], self.slots.forward_writes)

    def backward(self, microbatch: int, inputs: Sequence[Tensors], *, weights: bool) -> Sequence[Tensors]:
        """B, or I. See `StageCompute`."""
        parts = [self.again_s, self.input_grad_s, *([self.weight_grad_s] if weights else [])]
        return self._after(parts, self.slots.backward_writes)

    def weight_gradients(self, microbatch: int) -> None:
        """W. See `StageCompute`."""
        self._after([self.weight_grad_s], ())

    def _after(self, parts: Sequence[Parts], slots: Sequence[Slot]) -> Sequence[Tensors]:
        self.clock.wait(self.seconds(parts))
        return [()] * len(slots)


class EmulatedPipeline:
    """This rank's part of an emulated plan. Every rank of the process group makes one.

    A group of devices that divide ops is one device here, and a rank.

    Args:
        plan: a legal plan.
        world: what devices and links do; None: what the plan's cluster says.
        time_scale: emulated seconds per predicted second; None chooses one (`default_time_scale`).
        devices: of each rank; None: those that the plan uses, in order.
        steps_done: before the first step.

    Raises:
        PlanError, ScheduleError: the plan is not legal.
        ClusterError, InputError: see `drlpp.cost.divided_plans.divided`.
    """

    def __init__(
        self,
        plan: Plan,
        world: EmulatedWorld | None = None,
        time_scale: float | None = None,
        *,
        devices: Sequence[int] | None = None,
        steps_done: int = 0,
    ) -> None:
        validate(plan)
        world = EmulatedWorld(cluster=plan.cluster) if world is None else world
        made = divided(plan, world.cluster)
        world = dataclasses.replace(world, cluster=made.plan.cluster, members=plan.grouping.groups)
        plan, costs = made.plan, made.costs
        ranks = plan.used_devices if devices is None else tuple(devices)
        rank = dist.get_rank()
        mine = ranks[rank] if rank < len(ranks) else None
        self.device = mine if mine in plan.used_devices else None
        self.time_scale = default_time_scale(plan, costs) if time_scale is None else time_scale
        self.steps_done = steps_done
        self._clock = EmulatedClock()
        self.recorder = Recorder(self.device, watch=self._clock)
        self._world, self._noise = world, world.noise(rank)
        self._path = _shared_file()
        self._network = PacedNetwork(made, world, self._path, self.time_scale, self._clock)
        self._executor: Executor | None = None
        self._optimizer_s = 0.0
        self._longest_s = 0.0
        if self.device is not None:
            self._executor = self._make_executor(made, self.device, {d: r for r, d in enumerate(ranks)})

    def _make_executor(self, made: DividedPlan, d: int, rank_of: Mapping[int, int]) -> Executor:
        plan, costs, scale = made.plan, made.costs, self.time_scale
        inside = made.by_stage(made.inside_s())

        def parts(s: int, seconds: NDArray[np.float64], whole: NDArray[np.float64], kind: int) -> Parts:
            """Of a pass, or of a part of it, as emulated: collectives have their part of the `whole` pass."""
            among = float(seconds[s, d]) * (float(inside[kind, s, d]) / float(whole[s, d]) if whole[s, d] else 0.0)
            return (float(seconds[s, d]) - among) * scale, among * scale

        messages = plan.stage_graph.messages
        transfers = plan_transfers(plan, messages)
        slots = stage_slots(messages, plan.num_stages)
        _, optimizer_s = resident_and_optimizer(costs, [s.devices for s in plan.stages], plan.cluster.num_devices)
        self._optimizer_s = float(optimizer_s[d]) * scale
        computes = {
            s.index: WaitStage(
                slots=slots[s.index],
                forward_s=parts(s.index, costs.forward_s, costs.forward_s, 0),
                input_grad_s=parts(s.index, costs.input_grad_s, costs.input_grad_s, 1),
                weight_grad_s=parts(s.index, costs.weight_grad_s, costs.weight_grad_s, 2),
                again_s=parts(s.index, costs.again_s, costs.forward_s, 0),
                seconds=self._seconds,
                clock=self._clock,
            )
            for s in plan.stages
            if d in s.devices
        }
        channel = PacedChannel(plan, d, transfers, rank_of, self._network, self.recorder, self._clock)
        actions = plan.schedule.get(d, ())
        return Executor(
            plan,
            d,
            messages,
            transfers,
            channel,
            computes,
            lambda i: self._network.backward_done(actions[i].stage) if actions[i].kind in "BW" else None,
            self.recorder,
        )

    def _seconds(self, parts: Sequence[Parts]) -> float:
        """Those that some parts of an action, or of the optimizer's step, take in this step."""
        device, step = -1 if self.device is None else self.device, self.steps_done + 1
        host = frozenset({self._world.cluster.devices[device].host})
        device_s = sum(ops for ops, _ in parts) * self._world.device_factor(device, step)
        links_s = sum(collectives for _, collectives in parts) * self._world.link_factor(host, step)
        return (device_s + links_s) * self._noise.factor()

    def step(self) -> tuple[float, float]:
        """Runs one step; returns its begin and its end on this rank."""
        dist.barrier()  # nobody looks at the table of the last step any more
        if dist.get_rank() == 0:
            self._network.begin()
        dist.barrier()
        woken, begin = time.perf_counter(), self._network.begin_s
        self.recorder.begin(begin)
        self._network.step = self.steps_done + 1
        if self._executor is not None and self.device is not None:
            self._executor.run()
            for group, start, end in self._network.all_reduces_done(self.device):
                self.recorder.all_reduced(int(group.num_bytes), start, end)
            start = self._clock.now()
            self._clock.wait(self._seconds([(self._optimizer_s, 0.0)]))
            self.recorder.optimizer(start, self._clock.now())
        self._longest_s = max(self._longest_s, time.perf_counter() - woken)
        if self._executor is not None:
            self._executor.finish()
            self._executor.limit_waits(time_limit_s(self._longest_s))
        self.steps_done += 1
        return begin, self._clock.now()

    def emulate_move(self, old: Plan, new: Plan) -> float:
        """Waits as long as parameters and their states would be on their way from one plan's places to another's.

        Returns these seconds.
        """
        real = dataclasses.replace(old, cluster=self._world.cluster)
        seconds = move_s(self._world.cluster, moved_bytes(real, new)) * self.time_scale
        time.sleep(seconds)
        return seconds

    def where(self) -> Where:
        """Where this rank is."""
        if self._executor is None or self._executor.current is None:
            return Where(what="the end of a step", waits=True)
        return Where(what=f"action {self._executor.current}", waits=self._executor.waits)

    def close(self) -> None:
        """Removes the shared table, when all ranks are done."""
        dist.barrier()
        if dist.get_rank() == 0:
            self._path.unlink()


def _shared_file() -> Path:
    """An empty file whose path all ranks get from rank 0."""
    path: list[str] = [""]
    if dist.get_rank() == 0:
        with tempfile.NamedTemporaryFile(prefix="drlpp-emulation-", delete=False) as file:
            path[0] = file.name
    dist.broadcast_object_list(path)
    return Path(path[0])
