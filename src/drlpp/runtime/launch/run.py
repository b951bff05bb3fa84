"""`run`: executes a plan, with one process per device that it uses.

Called from an ordinary process it starts the ranks on this machine; called under ``torchrun`` (RANK and WORLD_SIZE are
set) it joins the ranks that are there, so the same line runs a plan across machines.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch.distributed as dist

from drlpp.errors import ExecutionError, InputError
from drlpp.files import is_file
from drlpp.plan import Plan, validate
from drlpp.plan.validation import check_trains, check_undivided
from drlpp.runtime.adapt.adapter import ranks_of
from drlpp.runtime.adapt.adopted import adopted_file, adopted_plan
from drlpp.runtime.launch.elastic import Elastic, run_elastic, run_once
from drlpp.runtime.launch.hosts import devices_of_ranks, plan_for_those_here
from drlpp.runtime.launch.job import Adapt, Precision, RunOptions, RunReport, autocast_precision
from drlpp.runtime.launch.rank_processes import Failure, is_echo
from drlpp.runtime.launch.training import Say, world_of
from drlpp.runtime.launch.worker import check_source, init_process_group, train

OWN_STORES = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Has torchrun make a store for each start of the ranks. The one that it shares is known to the first hosts only."""
_SHOWN = 120
"""Characters of what torch says when a connection breaks."""


def _silent(line: str) -> None:
    """Says nothing."""


class RunSettings(TypedDict, total=False):
    """What `run` may be given by name; see `RunOptions`, which says more and has the defaults.

    Attributes:
        steps, verify, emulate, seed, learning_rate, checkpoint_every, track_memory, time_scale: as there.
        emulate_cluster, emulate_events: each has the run emulated.
        precision: None for that of the plan.
        checkpoint: folder of checkpoints, which all ranks share; training goes on from the last one in it.
        data: ``FILE.py:function`` that yields batches (`drlpp.runtime.launch.user_batches`); None draws them.
        adapt: plan anew while training (`drlpp.adaptation.adaptation`), with a process for each device of the cluster.
    """

    steps: int
    verify: bool
    emulate: bool
    emulate_cluster: Path | None
    emulate_events: Path | None
    seed: int
    learning_rate: float
    precision: Precision | None
    checkpoint: Path | None
    checkpoint_every: int
    track_memory: bool
    time_scale: float | None
    data: str | None
    adapt: Adapt | None


def run(
    plan: Plan, *, elastic: Elastic | None = None, say: Say = _silent, **settings: Unpack[RunSettings]
) -> RunReport | None:
    """Executes a plan.

    Args:
        plan: a legal plan.
        elastic: restart when a rank dies or hangs; without a `checkpoint` they are kept in a temporary folder. Under
            torchrun, which restarts by itself (``--max-restarts``), plan for the hosts that are there.
        say: called with lines about what goes on.
        settings: see `RunSettings`.

    Returns:
        What was measured; None on the ranks of torchrun but the first.

    Raises:
        PlanError, ScheduleError, CaptureError, InputError: the plan cannot be run.
        InfeasibleError: there is no plan for the devices that are left.
        ExecutionError: a rank died or failed; the message is one line that names it.
        StoppedError: SIGTERM asked to stop a run with a `checkpoint`; it goes on from there when it is started again.
    """
    options = _options(plan, settings)
    validate(plan)
    check_trains(plan, "drlpp run")
    if options.emulate:
        world_of(plan, options)
    else:
        check_source(plan)
    if options.adapt is not None:
        plan = _adaptable(plan, settings.get("checkpoint"), say)
    if elastic is not None and (options.verify or options.emulate):
        raise InputError("an elastic run can be neither verified (its first steps are gone) nor emulated: leave it out")
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _join(plan, options, elastic, say)
    folder = Path(tempfile.mkdtemp(prefix="drlpp-run-"))
    try:
        if elastic is not None:
            return run_elastic(plan, options, elastic, folder, say)
        outcome = run_once(plan, options, folder, say, stays=options.checkpoint is not None)
        if isinstance(outcome, Failure):
            raise outcome.error
        return outcome
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _options(plan: Plan, settings: RunSettings) -> RunOptions:
    """The options of a run, with whole paths and the precision of the plan. Raises InputError as `RunOptions`."""
    given: dict[str, Any] = dict(settings)
    for name in ("emulate_cluster", "emulate_events", "checkpoint"):
        path: Path | None = given.get(name)
        given[name] = None if path is None else str(path.absolute())
    emulate = bool(given.get("emulate") or given["emulate_cluster"] or given["emulate_events"])
    data: str | None = given.get("data")
    given |= {
        "emulate": emulate,
        "precision": given.get("precision") or ("fp32" if emulate else autocast_precision(plan)),
        "data": None if data is None else _absolute(data),
    }
    return RunOptions(**given)


def _adaptable(plan: Plan, store: Path | None, say: Say) -> Plan:
    """The plan that ran last on these checkpoints, or else the one asked for, with whole optimizer states.

    They move when the plan changes.

    Raises:
        PlanError: ops are divided.
    """
    check_undivided(plan, "--adapt")
    if plan.training.zero1:
        say("adapt: every rank keeps whole optimizer states (no ZeRO-1), since they move when the plan changes")
        plan = dataclasses.replace(plan, training=dataclasses.replace(plan.training, zero1=False))
    adopted = None if store is None else adopted_plan(store, plan)
    if adopted is None or store is None:
        return plan
    say(f"adapt: going on with the plan that ran last, {adopted_file(store)}")
    return adopted


def _absolute(spec: str) -> str:
    """``FILE.py:function`` with an absolute path: ranks may run elsewhere. Raises InputError if there is no file."""
    path, _, function = spec.rpartition(":")
    if not path.endswith(".py") or not is_file(path):
        raise InputError(f"data {spec!r}: there is no file {path or spec}: write path/to/file.py:function")
    return f"{Path(path).absolute()}:{function}"


def _join(plan: Plan, options: RunOptions, elastic: Elastic | None, say: Say) -> RunReport | None:
    if elastic is not None and options.checkpoint is None:
        raise InputError(
            "an elastic run on several hosts goes on from checkpoints: give a folder that all of them share"
        )
    if elastic is not None and os.environ.get(OWN_STORES) != "1":
        raise InputError(
            f"{OWN_STORES} is not 1: torchrun would leave a host that comes later waiting; export it on every host"
        )
    mine = not dist.is_initialized()
    if mine:
        init_process_group()
    try:
        devices = None
        if elastic is not None and options.checkpoint is not None:
            found = devices_of_ranks(plan.cluster)
            plan, devices = plan_for_those_here(plan, found, elastic.replan, Path(options.checkpoint), say)
        size, needed = dist.get_world_size(), len(devices or ranks_of(plan, options.adapt, plan.used_devices))
        if size != needed:
            raise InputError(f"torchrun started {size} processes, the plan uses {needed} devices: start {needed}")
        report = train(plan, options, say, devices=devices)
        return report if dist.get_rank() == 0 else None
    except RuntimeError as error:
        if not is_echo(f"{type(error).__name__}: {error}"):
            raise
        raise ExecutionError(f"another rank is gone: {' '.join(str(error).split())[:_SHOWN]}") from error
    finally:
        if mine:
            dist.destroy_process_group()
