"""Runs the schedule of one rank: waits for what an action reads, computes it, hands on what it wrote.

The executor knows slots, transfers and actions; what an action computes is up to a `StageCompute`: the real stage
(`compute.py`) or a wait of the predicted duration (`emulation.py`). Both run under this one loop. A schedule does not
change, so what each action takes, sends and leaves for others is worked out once.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch

from drlpp.errors import ExecutionError
from drlpp.graph.stages import Message
from drlpp.plan import Action, Plan
from drlpp.runtime.observe.stopwatch import Moment, Watch
from drlpp.runtime.transfers.channel import Channel
from drlpp.runtime.transfers.planned import Slot, Transfer, readers, stage_slots, writers

Tensors = Sequence[torch.Tensor]


class ActionObserver(Watch, Protocol):
    """Is told what is computed when."""

    def look(self, at: Moment) -> None:
        """An action is about to be computed; all that it reads is there."""
        ...

    def action(self, action: Action, begin: Moment, end: Moment) -> None:
        """An action was computed."""
        ...


class StageCompute(Protocol):
    """What one stage computes.

    Slots come and go in the order of the stage's `StageSlots`, each as one tensor per name of its message.
    """

    def forward(self, microbatch: int, values: Sequence[Tensors]) -> Sequence[Tensors]:
        """F: values that it reads -> values that it writes."""
        ...

    def backward(self, microbatch: int, inputs: Sequence[Tensors], *, weights: bool) -> Sequence[Tensors]:
        """B (or I, without `weights`): gradients of what it wrote -> gradients of what it read."""
        ...

    def weight_gradients(self, microbatch: int) -> None:
        """W: what an earlier I left over."""
        ...


_Key = tuple[Slot, int]
"""A slot of one micro-batch."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """One slot that an action reads.

    Attributes:
        incoming: transfers to wait for; empty where an earlier action of this device has waited for them.
        last: no later action of this device reads it.
    """

    key: _Key
    incoming: tuple[Transfer, ...]
    last: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Write:
    """One slot (or a part of it: a gradient is a sum) that an action writes.

    Attributes:
        complete: all parts of this device are there then.
        outgoing: transfers to start when it is complete.
        stays: an action of this device reads it.
    """

    key: _Key
    complete: bool
    outgoing: tuple[Transfer, ...]
    stays: bool


class Executor:
    """One device's part of a plan.

    Args:
        plan: a legal plan.
        device: id of this device in the plan's cluster.
        messages: between the stages of the plan.
        transfers: of the whole plan (`plan_transfers`).
        channel: of this device.
        computes: stage -> what it computes, for each stage of this device.
        after_action: called after each action with its index, for example to start all-reduces.
        observer: is told of all actions; may be changed between steps.

    Attributes:
        channel: its messages.
        current: the action that runs now; None between steps.
        waits: it waits for what it reads.
    """

    def __init__(
        self,
        plan: Plan,
        device: int,
        messages: Sequence[Message],
        transfers: Sequence[Transfer],
        channel: Channel,
        computes: Mapping[int, StageCompute],
        after_action: Callable[[int], None],
        observer: ActionObserver | None = None,
    ) -> None:
        self.actions = plan.schedule.get(device, ())
        self.observer = observer
        self.current: Action | None = None
        self.waits = False
        self.channel = channel
        self._after_action = after_action
        self._parts: dict[_Key, list[Tensors]] = defaultdict(list)
        reads, writes = _reads_and_writes(plan, device, messages, transfers)
        self._program = [(a, computes[a.stage], r, w) for a, r, w in zip(self.actions, reads, writes, strict=True)]

    def run(self) -> None:
        """Runs all actions of one step.

        Raises:
            ExecutionError: another rank does not answer; the message names the action that waits.
        """
        observer = self.observer
        self.channel.begin()
        for i, (action, compute, reads, writes) in enumerate(self._program):
            self.current, self.waits = action, True
            self.channel.post(i)
            try:
                inputs = [self._take(read) for read in reads]
            except ExecutionError as error:
                raise ExecutionError(f"stuck before action {action}: {error}") from error
            self.waits = False
            if observer is not None:
                observer.look(observer.now())
                begin = observer.now()
            outputs = _compute(compute, action, inputs)
            if observer is not None:
                end = observer.now()
            del inputs
            for write, tensors in zip(writes, outputs, strict=True):
                self._put(write, tensors)
            del outputs
            if observer is not None:
                observer.action(action, begin, end)
            self._after_action(i)
        self.current = None

    def finish(self) -> None:
        """Waits until what the last step sent has been received."""
        self.channel.finish()

    def limit_waits(self, timeout_s: float) -> None:
        """From now on a message may be waited for so long."""
        self.channel.timeout_s = timeout_s

    def _take(self, read: _Read) -> Tensors:
        """The content of a slot: a value (kept until its last reader here has it) or the sum of gradients."""
        parts = self._parts[read.key]
        if read.incoming:
            parts += [self.channel.receive(t) for t in read.incoming]
        if len(parts) > 1:
            parts[:] = [_sum(parts)]
        if read.last:
            del self._parts[read.key]
        return parts[0]

    def _put(self, write: _Write, tensors: Tensors) -> None:
        """Stores a part of a slot; when all parts of this device are there, sends them on or leaves them for here."""
        if write.complete and write.key not in self._parts:
            whole = tensors
        else:
            parts = self._parts[write.key]
            parts.append(tensors)
            if not write.complete:
                return
            whole = _sum(self._parts.pop(write.key))
        for transfer in write.outgoing:
            self.channel.send(transfer, whole)
        if write.stays:
            self._parts[write.key].append(whole)


def _compute(compute: StageCompute, action: Action, inputs: Sequence[Tensors]) -> Sequence[Tensors]:
    if action.kind == "F":
        return compute.forward(action.microbatch, inputs)
    if action.kind == "W":
        compute.weight_gradients(action.microbatch)
        return ()
    return compute.backward(action.microbatch, inputs, weights=action.kind == "B")


def _reads_and_writes(
    plan: Plan, device: int, messages: Sequence[Message], transfers: Sequence[Transfer]
) -> tuple[list[tuple[_Read, ...]], list[tuple[_Write, ...]]]:
    """What each action of a device reads and writes."""
    outgoing: dict[_Key, list[Transfer]] = defaultdict(list)
    incoming: dict[_Key, list[Transfer]] = defaultdict(list)
    for t in transfers:
        if t.src == device:
            outgoing[t.slot, t.microbatch].append(t)
        if t.dst == device:
            incoming[t.slot, t.microbatch].append(t)

    def stages_here(stages: Iterable[int], microbatch: int) -> int:
        return sum(device in plan.stages[s].group(microbatch) for s in stages)

    slots = stage_slots(messages, plan.num_stages)
    read: dict[_Key, int] = defaultdict(int)
    written: dict[_Key, int] = defaultdict(int)
    reads, writes = [], []
    for action in plan.schedule.get(device, ()):
        m = action.microbatch
        mine = []
        for slot in slots[action.stage].reads(action):
            key = slot, m
            read[key] += 1
            last = read[key] == stages_here(readers(messages, slot), m)
            mine.append(_Read(key, tuple(incoming[key]) if read[key] == 1 else (), last))
        reads.append(tuple(mine))
        made = []
        for slot in slots[action.stage].writes(action):
            key = slot, m
            written[key] += 1
            complete = written[key] == stages_here(writers(messages, slot), m)
            stays = stages_here(readers(messages, slot), m) > 0
            made.append(_Write(key, complete, tuple(outgoing[key]), stays))
        writes.append(tuple(made))
    return reads, writes


def _sum(parts: Sequence[Tensors]) -> Tensors:
    """Adds up the parts of a gradient, tensor by tensor."""
    total = list(parts[0])
    for part in parts[1:]:
        total = [a + b for a, b in zip(total, part, strict=True)]
    return total
