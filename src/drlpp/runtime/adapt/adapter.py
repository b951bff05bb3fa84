"""Adaptation as all ranks see it: which steps are measured, and at which boundary which plan takes over.

Rank 0 decides (`controller`). The others send it what they recorded and are told the plan, both after the same steps,
so that all switch at the same boundary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from drlpp.plan import Plan
from drlpp.runtime.adapt.adopted import record_adopted
from drlpp.runtime.adapt.controller import Controller
from drlpp.runtime.adapt.decisions import Decision
from drlpp.runtime.launch.job import Adapt, RunOptions
from drlpp.runtime.observe.recording import Record, Recorder, merge


class Adapter:
    """One rank's part.

    Args:
        plan: that runs first.
        adapt: how it is done.
        options: of the run.
        first: steps that were done before.
        say: called on rank 0.
        time_scale: see `Controller`.

    Attributes:
        plan: that runs.
    """

    def __init__(
        self,
        plan: Plan,
        adapt: Adapt,
        options: RunOptions,
        first: int,
        say: Callable[[str], None],
        *,
        time_scale: float = 1.0,
    ) -> None:
        self.plan = plan
        self._adapt, self._scale = adapt, time_scale
        self._store = None if options.checkpoint is None else Path(options.checkpoint)
        self._since = first  # steps that were done when this plan began
        self._began_s = 0.0
        self._controller: Controller | None = None
        if dist.get_rank() == 0:
            self._controller = Controller(plan, adapt, options.steps, options.seed, time_scale, say)

    def listens(self, step: int) -> bool:
        """Whether the step after `step` steps is measured: the first ones of a plan but the very first, then some."""
        done = step - self._since
        return 0 < done <= self._adapt.after_steps or step % self._adapt.every == 0

    def after(self, step: int, recorder: Recorder) -> Plan | None:
        """The plan that takes over now, after `step` steps. Called on every rank after each step.

        Args:
            recorder: of the step, if it was measured.
        """
        if not self.listens(step - 1):
            return None
        record = recorder.record()
        size = dist.get_world_size()
        records: list[Record] | None = [record] * size if self._controller is not None else None
        dist.gather_object(record, records)
        new: list[Plan | None] = [None]
        if self._controller is not None and records is not None:
            if step - 1 > self._since:  # the first step of a plan warms up
                self._controller.observe(step, merge(records, self.plan.cluster.num_devices, self._scale))
            new[0] = self._controller.decide(step)
        dist.broadcast_object_list(new)
        self._began_s = time.perf_counter()
        return new[0]

    def keep_pace(self, seconds: float) -> None:
        """So much time went by on an emulated cluster: the process that plans has had a processor for as long."""
        if self._controller is not None:
            self._controller.keep_pace(seconds)

    def switched(self, step: int, plan: Plan, seconds: float | None = None) -> None:
        """The rank runs `plan`. Called on every rank.

        Args:
            seconds: that the switch took on an emulated cluster; None measures them.
        """
        dist.barrier()
        self.plan, self._since = plan, step
        if self._controller is not None:
            self._controller.switched(step, plan, time.perf_counter() - self._began_s if seconds is None else seconds)
            if self._store is not None:
                record_adopted(self._store, plan)

    def refused(self, step: int, reason: str) -> None:
        """The ranks go on with the plan that they ran."""
        if self._controller is not None:
            self._controller.refused(step, reason)

    def decisions(self) -> tuple[Decision, ...]:
        """What was decided, on rank 0; nothing on the others. Ends the planning process."""
        if self._controller is None:
            return ()
        self._controller.close()
        return tuple(self._controller.decisions)


def ranks_of(plan: Plan, adapt: Adapt | None, used: tuple[int, ...]) -> tuple[int, ...]:
    """The device of each rank: those that the plan uses, or all, where a later plan may use others."""
    return used if adapt is None else tuple(range(plan.cluster.num_devices))
