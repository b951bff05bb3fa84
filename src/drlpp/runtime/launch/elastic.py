"""Runs a plan on this machine to its end, through the death of ranks: restarts from the last checkpoint.

The device of a rank that dies or hangs counts as lost, and what trains on is a new plan for the devices that are left;
or the devices count as good, and the same plan is started again in place. The result is that of an undisturbed run: the
step, the micro-batches and dropout go on from the checkpoint, and none of them depends on the plan.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from drlpp.cluster import Cluster
from drlpp.errors import ExecutionError, InputError
from drlpp.plan import Plan, validate
from drlpp.runtime.adapt.adapter import ranks_of
from drlpp.runtime.adapt.adopted import adopted_plan
from drlpp.runtime.checkpoint import checkpoints
from drlpp.runtime.launch.job import Restart, RunOptions, RunReport
from drlpp.runtime.launch.rank_processes import Failure, Ranks
from drlpp.runtime.launch.signals import SIGNALS
from drlpp.runtime.launch.training import Say
from drlpp.runtime.launch.worker import read_losses, read_report, write_job
from drlpp.signals import caught
from drlpp.units import format_time

Replan = Callable[[Plan, Cluster], Plan]
"""The plan so far and the cluster that is left -> a plan of the same model and training set-up for that cluster."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Elastic:
    """What is done when a rank dies or hangs.

    Attributes:
        replan: plans for the devices that are left; None starts the same plan again, on the same devices.
        max_restarts: restarts before the run gives up.

    Raises:
        InputError: `max_restarts` is negative.
    """

    replan: Replan | None = None
    max_restarts: int = 3

    def __post_init__(self) -> None:
        if self.max_restarts < 0:
            raise InputError(f"max_restarts is {self.max_restarts}: it must not be negative")


def run_elastic(plan: Plan, options: RunOptions, elastic: Elastic, folder: Path, say: Say) -> RunReport:
    """Runs a plan with one process per device on this machine.

    Args:
        plan: to begin with.
        options: its `checkpoint` is a folder.
        elastic: see there.
        folder: for the files of this run.
        say: called with lines about what goes on.

    Returns:
        The report of the last start, with the losses of all steps.

    Raises:
        ExecutionError: ranks died too often, or no device is left.
        InputError, InfeasibleError: the run cannot be done, or not with what is left.
    """
    stays = options.checkpoint is not None
    store = Path(options.checkpoint) if options.checkpoint is not None else folder / "checkpoints"
    options = dataclasses.replace(options, checkpoint=str(store))
    losses: dict[int, float] = {}
    restarts: list[Restart] = []
    while True:
        attempt = folder / f"attempt-{len(restarts)}"
        attempt.mkdir()
        outcome = run_once(plan, options, attempt, say, stays=stays)
        losses |= read_losses(attempt)
        if options.adapt is not None:
            plan = adopted_plan(store, plan) or plan
        if isinstance(outcome, RunReport):
            steps = sorted(losses)
            return dataclasses.replace(
                outcome, first_step=steps[0], losses=tuple(losses[s] for s in steps), restarts=tuple(restarts)
            )
        if not outcome.restartable or elastic.max_restarts == 0:
            raise outcome.error
        if len(restarts) == elastic.max_restarts:
            raise ExecutionError(f"{outcome.error}; gave up after {len(restarts)} restarts")
        say(str(outcome.error))
        began = time.monotonic()
        if outcome.lost and elastic.replan is not None:
            plan = plan_for_the_rest(plan, outcome, elastic.replan)
        seconds = time.monotonic() - began
        at = _last_step(store, options.steps)
        num_devices = len(plan.used_devices)
        restarts.append(Restart(reason=str(outcome.error), step=at, num_devices=num_devices, planning_s=seconds))
        how = f"re-planned in {format_time(seconds)}" if outcome.lost and elastic.replan else "the same plan"
        where = f"the checkpoint of step {at}" if at else "the start: there is no checkpoint yet"
        say(f"restart {len(restarts)} of at most {elastic.max_restarts}: {how}, {num_devices} devices, from {where}")


def run_once(plan: Plan, options: RunOptions, folder: Path, say: Say, *, stays: bool) -> RunReport | Failure:
    """Starts the ranks and waits for their end: the report, or why there is none.

    Args:
        stays: a checkpoint stays when this process ends, so signals that ask for one are passed on.
    """
    write_job(folder, plan, options)
    devices = ranks_of(plan, options.adapt, plan.used_devices)
    say(f"starting {len(devices)} {'processes' if len(devices) > 1 else 'process'} on this machine")
    ranks = Ranks(devices, folder, say)
    try:
        with caught(ranks.signal, signals=SIGNALS, when=stays):
            return ranks.wait() or read_report(folder)
    finally:
        ranks.stop()


def plan_for_the_rest(plan: Plan, failure: Failure, replan: Replan) -> Plan:
    """The new plan, for the devices that are not lost.

    Raises:
        ExecutionError: no device is left.
        PlanError, ScheduleError, InputError: the new plan is not legal, or not of the same model and training set-up.
    """
    left = [d for d in range(plan.cluster.num_devices) if d not in failure.lost]
    if not left:
        raise ExecutionError(f"{failure.error}; no device is left")
    return checked_plan(plan, plan.cluster.subset(left), replan)


def checked_plan(plan: Plan, cluster: Cluster, replan: Replan) -> Plan:
    """A plan for another cluster that goes on where `plan` was.

    Raises:
        PlanError, ScheduleError, InputError: the new plan is not legal, or not of the same model and training set-up.
    """
    new = replan(plan, cluster)
    validate(new)
    if new.training != plan.training or new.graph.source != plan.graph.source:
        raise InputError("the new plan is of another model or training set-up: keep those of the plan so far")
    return new


def _last_step(store: Path, steps: int) -> int:
    """Steps of the last checkpoint; one of the end is removed: its last step is run again, for the report."""
    found = checkpoints(store)
    if found and found[-1][0] >= steps:
        shutil.rmtree(found.pop()[1])
    return found[-1][0] if found else 0
