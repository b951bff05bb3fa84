"""Which tensors cross between ranks in one step, and in which order: derived from the plan.

A *slot* is what one message of the stage graph carries in one direction: its values on the way to the consuming
stages, or the gradients of those values on the way back. A *transfer* is one slot of one micro-batch on its way from
one device to another: each consuming device gets a value once, however many of its stages read it, and sends back one
gradient, the sum over those stages.

Every transfer has tags of its own, so a backend that matches messages by tag (gloo) cannot mix them up. A backend
that ignores tags and runs all messages of a pair of ranks one after the other (NCCL) needs both ends to post them in
the same order. `plan_transfers` numbers transfers by the logical time at which they are produced in a run of the
schedule (integers, so that every machine derives the same order); following these numbers cannot deadlock, as
docs/runtime.md shows.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from drlpp.errors import ScheduleError
from drlpp.graph.stages import Message
from drlpp.plan import Action, Plan

_LOGICAL_DURATION = {"F": 1, "B": 2, "I": 1, "W": 1}


class Slot(NamedTuple):
    """What one message carries, in one direction.

    Attributes:
        message: its position in the sequence of messages of the run.
        content: the values, or the gradients that flow back.
    """

    message: int
    content: Literal["value", "gradient"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A slot of one micro-batch that moves from device `src` to device `dst`.

    Attributes:
        order: position among all transfers of the step; sends are posted in this order, and on NCCL receives too.
        tag: of the message's first tensor; tensor k has ``tag + k``.
        stage: that makes the value, or the first one of `src` that returns the gradient.
        produced_by: index in the schedule of `src` of the action that completes it.
        needed_by: index in the schedule of `dst` of the first action that reads it.
    """

    order: int
    tag: int
    slot: Slot
    stage: int
    microbatch: int
    src: int
    dst: int
    produced_by: int
    needed_by: int


@dataclasses.dataclass(frozen=True)
class StageSlots:
    """The slots that the passes of one stage read and write. Backward stands for B, or for I where it is split."""

    forward_reads: tuple[Slot, ...]
    forward_writes: tuple[Slot, ...]
    backward_reads: tuple[Slot, ...]
    backward_writes: tuple[Slot, ...]

    def reads(self, action: Action) -> tuple[Slot, ...]:
        """What an action of the stage has to wait for."""
        return self.forward_reads if action.kind == "F" else () if action.kind == "W" else self.backward_reads

    def writes(self, action: Action) -> tuple[Slot, ...]:
        """What an action of the stage produces (its part of, for gradients)."""
        return self.forward_writes if action.kind == "F" else () if action.kind == "W" else self.backward_writes


def stage_slots(messages: Sequence[Message], num_stages: int) -> tuple[StageSlots, ...]:
    """The slots of every stage."""
    slots = []
    for s in range(num_stages):
        into = [i for i, m in enumerate(messages) if s in m.dsts]
        out = [i for i, m in enumerate(messages) if s == m.src]
        forward = {i for i, m in enumerate(messages) if m.phase == "forward"}
        back = {i for i in forward if messages[i].requires_grad}
        slots.append(
            StageSlots(
                forward_reads=tuple(Slot(i, "value") for i in into if i in forward),
                forward_writes=tuple(Slot(i, "value") for i in out if i in forward),
                backward_reads=tuple(Slot(i, "gradient") for i in out if i in back)
                + tuple(Slot(i, "value") for i in into if i not in forward),
                backward_writes=tuple(Slot(i, "value") for i in out if i not in forward)
                + tuple(Slot(i, "gradient") for i in into if i in back),
            )
        )
    return tuple(slots)


def readers(messages: Sequence[Message], slot: Slot) -> tuple[int, ...]:
    """Stages that read a slot."""
    message = messages[slot.message]
    return message.dsts if slot.content == "value" else (message.src,)


def writers(messages: Sequence[Message], slot: Slot) -> tuple[int, ...]:
    """Stages that write a slot; the parts of a gradient are summed."""
    message = messages[slot.message]
    return (message.src,) if slot.content == "value" else message.dsts


def plan_transfers(plan: Plan, messages: Sequence[Message]) -> tuple[Transfer, ...]:
    """All transfers of one step, in the order in which every rank posts its sends.

    Args:
        plan: a legal plan.
        messages: between its stages, in the same order on every rank.

    Raises:
        ScheduleError: the schedule can never finish.
    """
    position = _positions(plan)
    drafts: list[Transfer] = []
    for slot in dict.fromkeys(
        x for s in stage_slots(messages, plan.num_stages) for x in (*s.forward_writes, *s.backward_writes)
    ):
        message = messages[slot.message]
        passes = "F" if message.phase == "forward" and slot.content == "value" else "B"
        for m in range(plan.num_microbatches):
            produced: dict[tuple[int, ...], int] = defaultdict(int)
            needed: dict[tuple[int, ...], int] = {}
            for s in writers(messages, slot):
                group = plan.stages[s].group(m)
                produced[group] = max(produced[group], position[s, passes, m])
            for s in readers(messages, slot):
                group = plan.stages[s].group(m)
                needed[group] = min(needed.get(group, position[s, passes, m]), position[s, passes, m])
            drafts += [
                Transfer(
                    order=0,
                    tag=0,
                    slot=slot,
                    stage=next(s for s in writers(messages, slot) if plan.stages[s].group(m) == a),
                    microbatch=m,
                    src=a[k % len(a)],
                    dst=dst,
                    produced_by=i,
                    needed_by=needed[b],
                )
                for a, i in sorted(produced.items())
                for b in sorted(needed)
                if a != b
                for k, dst in enumerate(b)
            ]
    produced_at = logical_times(plan, drafts)
    drafts.sort(key=lambda t: (produced_at[t.src, t.produced_by], t.slot, t.dst))
    transfers, tag = [], 0
    for order, draft in enumerate(drafts):
        transfers.append(dataclasses.replace(draft, order=order, tag=tag))
        tag += len(messages[draft.slot.message].tensors)
    return tuple(transfers)


def _positions(plan: Plan) -> Mapping[tuple[int, str, int], int]:
    """(stage, F or B, micro-batch) -> index in the schedule of the rank that runs it; B stands for I too."""
    return {
        (a.stage, "F" if a.kind == "F" else "B", a.microbatch): i
        for actions in plan.schedule.values()
        for i, a in enumerate(actions)
        if a.kind != "W"
    }


def logical_times(plan: Plan, transfers: Sequence[Transfer]) -> Mapping[tuple[int, int], tuple[int, int]]:
    """(device, index of action) -> (logical finish time, sequence number): a legal total order of all actions.

    The members of a group do each action together, since they exchange tensors in it.
    """
    needs: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for t in transfers:
        needs[t.dst, t.needed_by].append((t.src, t.produced_by))
    times: dict[tuple[int, int], tuple[int, int]] = {}
    together = {g[0]: g for stage in plan.stages for g in stage.replicas}
    clock = {d: 0 for d in sorted(plan.schedule) if d in together}
    position = dict.fromkeys(clock, 0)
    advanced = True
    while advanced:
        advanced = False
        for device in clock:
            while position[device] < len(plan.schedule[device]):
                i = position[device]
                before = [source for member in together[device] for source in needs[member, i]]
                if any(source not in times for source in before):
                    break
                start = max([clock[device], *(times[source][0] for source in before)])
                clock[device] = start + _LOGICAL_DURATION[plan.schedule[device][i].kind]
                times.update({(member, i): (clock[device], len(times)) for member in together[device]})
                position[device] += 1
                advanced = True
    for device, i in position.items():
        if i < len(plan.schedule[device]):
            raise ScheduleError(
                f"the schedule deadlocks: rank {device} waits at {plan.schedule[device][i]}: "
                "list every action after the actions that it needs"
            )
    return times
