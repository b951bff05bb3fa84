"""Runs the schedule of one rank: waits for what an action reads, computes it, hands on what it wrote.

The executor knows slots, transfers and actions; what an action computes is up to a `StageCompute`: the real stage
(`compute.py`) or a wait of the predicted duration (`emulation.py`). Both run under this one loop.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from drlpp.errors import ExecutionError
from drlpp.graph.stages import Message
from drlpp.plan import Action, Plan
from drlpp.runtime.communication import Channel
from drlpp.runtime.messages import Slot, Transfer, readers, stage_slots, writers

Tensors = tuple[torch.Tensor, ...]
Observer = Callable[[Action, float, float], None]
"""Called after an action with the action and the seconds at which its computation began and ended."""


class StageCompute(Protocol):
    """What one stage computes. Slots come and go as tuples with one tensor per name of the message."""

    def forward(self, microbatch: int, values: Mapping[Slot, Tensors]) -> Mapping[Slot, Tensors]:
        """F: values that it reads -> values that it writes."""
        ...

    def backward(self, microbatch: int, inputs: Mapping[Slot, Tensors], *, weights: bool) -> Mapping[Slot, Tensors]:
        """B (or I, without `weights`): gradients of what it wrote -> gradients of what it read."""
        ...

    def weight_gradients(self, microbatch: int) -> None:
        """W: what an earlier I left over."""
        ...


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
        observe: see `Observer`.

    Attributes:
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
        observe: Observer | None = None,
    ) -> None:
        self.actions = plan.schedule.get(device, ())
        self.observe = observe
        self.current: Action | None = None
        self.waits = False
        self._plan = plan
        self._device = device
        self._channel = channel
        self._computes = computes
        self._after_action = after_action
        self._messages = messages
        self._slots = stage_slots(messages, plan.num_stages)
        self._outgoing: dict[tuple[Slot, int], list[Transfer]] = defaultdict(list)
        self._incoming: dict[tuple[Slot, int], list[Transfer]] = defaultdict(list)
        for t in transfers:
            if t.src == device:
                self._outgoing[t.slot, t.microbatch].append(t)
            if t.dst == device:
                self._incoming[t.slot, t.microbatch].append(t)
        self._local: dict[tuple[Slot, int], list[Tensors]] = defaultdict(list)
        self._reads_left: Counter[tuple[Slot, int]] = Counter()

    def run(self) -> None:
        """Runs all actions of one step.

        Raises:
            ExecutionError: another rank does not answer; the message names the action that waits.
        """
        self._channel.begin()
        for i, action in enumerate(self.actions):
            self.current, self.waits = action, True
            self._channel.post(i)
            slots = self._slots[action.stage]
            try:
                inputs = {slot: self._take(slot, action.microbatch) for slot in slots.reads(action)}
            except ExecutionError as error:
                raise ExecutionError(f"stuck before action {action}: {error}") from error
            self.waits = False
            begin = time.perf_counter()
            outputs = self._compute(action, inputs)
            end = time.perf_counter()
            del inputs
            for slot in slots.writes(action):
                self._put(slot, action.microbatch, outputs[slot])
            del outputs
            if self.observe is not None:
                self.observe(action, begin, end)
            self._after_action(i)
        self.current = None

    def finish(self) -> None:
        """Waits until what the last step sent has been received."""
        self._channel.finish()

    def limit_waits(self, timeout_s: float) -> None:
        """From now on a message may be waited for so long."""
        self._channel.timeout_s = timeout_s

    def _compute(self, action: Action, inputs: Mapping[Slot, Tensors]) -> Mapping[Slot, Tensors]:
        compute, m = self._computes[action.stage], action.microbatch
        if action.kind == "F":
            return compute.forward(m, inputs)
        if action.kind == "W":
            compute.weight_gradients(m)
            return {}
        return compute.backward(m, inputs, weights=action.kind == "B")

    def _stages_here(self, stages: Sequence[int], microbatch: int) -> int:
        return sum(self._plan.stages[s].device(microbatch) == self._device for s in stages)

    def _take(self, slot: Slot, microbatch: int) -> Tensors:
        """The content of a slot: a value (kept until its last reader here has it) or the sum of gradients."""
        key = slot, microbatch
        parts = self._local[key]
        if not self._reads_left[key]:
            self._reads_left[key] = self._stages_here(readers(self._messages, slot), microbatch)
            parts += [tuple(self._channel.receive(t)) for t in self._incoming[key]]
            if len(parts) > 1:
                parts[:] = [_sum(parts)]
        self._reads_left[key] -= 1
        if not self._reads_left[key]:
            del self._reads_left[key], self._local[key]
        return parts[0]

    def _put(self, slot: Slot, microbatch: int, tensors: Tensors) -> None:
        """Stores a part of a slot; when all parts of this device are there, sends them on or leaves them for here."""
        key = slot, microbatch
        parts = self._local[key]
        parts.append(tensors)
        if len(parts) < self._stages_here(writers(self._messages, slot), microbatch):
            return
        if len(parts) > 1:
            parts[:] = [_sum(parts)]
        for transfer in self._outgoing[key]:
            self._channel.send(transfer, parts[0])
        if not self._stages_here(readers(self._messages, slot), microbatch):
            del self._local[key]


def _sum(parts: Sequence[Tensors]) -> Tensors:
    """Adds up the parts of a gradient, tensor by tensor."""
    total = list(parts[0])
    for part in parts[1:]:
        total = [a + b for a, b in zip(total, part, strict=True)]
    return tuple(total)
