"""One rank of a run: ``python -m drlpp.runtime.launch FOLDER``, started once per device by `launch.run`.

The folder holds the job; the rank leaves its report, or one line that says what went wrong, there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch.distributed.rendezvous import rendezvous

from drlpp.capture import CapturedModel, Example, capture, load_model
from drlpp.errors import DrlppError, PlanError
from drlpp.files import write_atomically
from drlpp.freed_memory import keep_freed_memory
from drlpp.graph import OpGraph
from drlpp.graph.mixed_precision import at_precision
from drlpp.plan import Plan, plan_from_dict, plan_to_dict
from drlpp.runtime.launch.fresh_store import fresh_store
from drlpp.runtime.launch.job import RunOptions, RunReport
from drlpp.runtime.launch.training import Follow, RecordLoss, Say, train_captured, train_emulated
from drlpp.runtime.observe.heartbeat import Heartbeat

CONTROL_TIMEOUT = timedelta(minutes=30)
"""Ranks wait for each other this long outside of steps: while models are captured and verified."""
FAILED, REFUSED = 1, 2
"""Exit statuses: the run failed; the input cannot be run."""
_REPORT_FILE = "report.json"
_REPORT: TypeAdapter[Any] = TypeAdapter(RunReport)


def write_job(folder: Path, plan: Plan, options: RunOptions) -> None:
    """Puts a job into a folder."""
    job = {"plan": plan_to_dict(plan), "options": dataclasses.asdict(options)}
    write_atomically(folder / "job.json", json.dumps(job))


def read_report(folder: Path) -> RunReport:
    """The report that rank 0 left in a folder."""
    report: RunReport = _REPORT.validate_python(json.loads((folder / _REPORT_FILE).read_text()))
    return report


def error_file(folder: Path, rank: int) -> Path:
    """Where a rank leaves the line that says what went wrong."""
    return folder / f"error-{rank}.txt"


def progress_file(folder: Path) -> Path:
    """Where rank 0 writes lines about what goes on."""
    return folder / "progress.txt"


def beat_file(folder: Path, rank: int) -> Path:
    """Where a rank leaves its signs of life."""
    return folder / f"beat-{rank}.json"


def _loss_file(folder: Path) -> Path:
    return folder / "losses.txt"


def read_losses(folder: Path) -> dict[int, float]:
    """Step (counted from 0) -> loss, as far as the job in a folder came."""
    if not _loss_file(folder).exists():
        return {}
    lines = [line.split() for line in _loss_file(folder).read_text().splitlines()]
    return {int(step): float.fromhex(loss) for step, loss in lines}


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def model_of(plan: Plan, seed: int) -> tuple[CapturedModel, Callable[[], Example]]:
    """Captures the model that a plan was made for, without values; and what makes it with values.

    Raises:
        PlanError: the plan's graph does not come from a model, or the model is not the same any more.
        CaptureError: the model cannot be built.
    """
    check_source(plan)
    model = load_model(plan.graph.source)
    captured = capture(model, seed=seed, samples=plan.graph.samples_per_microbatch)
    main_parameters = plan.training.main_parameters
    _check_same(plan.graph, at_precision(captured.graph, plan.graph.compute_dtype, main_parameters=main_parameters))
    return captured, model.make


def check_source(plan: Plan) -> None:
    """Raises PlanError if the plan's graph does not come from a model that can be built."""
    source = plan.graph.source
    if not source.startswith(("timm:", "transformers:")) and ".py:" not in source:
        where = f"comes from {source!r}" if source else "was generated"
        raise PlanError(
            f"the plan's graph {plan.graph.name!r} {where}, which is not a model that can be built: emulate the plan "
            "(--emulate), or plan for timm:NAME, transformers:CLASS or FILE.py:callable"
        )


def _check_same(planned: OpGraph, captured: OpGraph) -> None:
    """Raises PlanError where the captured model differs from the planned one in ops, parameters or tensors.

    What ops keep for the backward pass is left out: it depends on the device that the plan was made for.
    """
    fix = "the model, its options or a library changed since the plan was made; plan again"
    for what, ours, theirs in (
        ("op", planned.member_index, captured.member_index),
        ("parameter", planned.param_bytes, captured.param_bytes),
    ):
        if odd := sorted(set(ours) ^ set(theirs)):
            has, lacks = ("plan", "model") if odd[0] in ours else ("model", "plan")
            raise PlanError(f"the {has} of {planned.source!r} has {what} {odd[0]!r}, the {lacks} has not: {fix}")
    for what, sizes, now in (
        ("parameter", planned.param_bytes, captured.param_bytes),
        ("tensor", planned.tensor_bytes, captured.tensor_bytes),
    ):
        kept = set(sizes) if what == "parameter" else {edge.tensor for edge in planned.edges}
        for name in kept:
            if name in now and sizes[name] != now[name]:
                raise PlanError(
                    f"{what} {name!r} of {planned.source!r} has {now[name]:.0f} bytes, in the plan "
                    f"{sizes[name]:.0f}: {fix}"
                )


def init_process_group(init_method: str | None = None) -> None:
    """Joins the process group that the environment (RANK, WORLD_SIZE, LOCAL_RANK) describes.

    NCCL where every rank of this host has a GPU of its own, else gloo.
    """
    # a kernel that is loaded when it is first used may have to wait for all that run: for a receive, that is, whose
    # sender may wait for this rank (CUDA C++ programming guide, lazy loading)
    os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    gpus = torch.cuda.is_available() and torch.cuda.device_count() >= local_ranks
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", os.environ["RANK"])))
    else:
        keep_freed_memory()
    store, rank, world_size = next(
        rendezvous(
            init_method or "env://",
            int(os.environ["RANK"]),
            int(os.environ["WORLD_SIZE"]),
            timeout=CONTROL_TIMEOUT,
        )
    )
    if "TORCHELASTIC_RUN_ID" in os.environ:
        store = fresh_store(store, rank, world_size)
    dist.init_process_group(
        "nccl" if gpus else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=CONTROL_TIMEOUT,
    )


def train(
    plan: Plan,
    options: RunOptions,
    say: Say,
    *,
    follow: Follow | None = None,
    record_loss: RecordLoss | None = None,
    devices: Sequence[int] | None = None,
) -> RunReport:
    """Runs a plan on the process group that is there; called on every rank; `say` and the record are on rank 0.

    Args:
        devices: of the ranks; None: in order, those that the plan uses, or all where it may come to use others.
    """
    if options.emulate:
        return train_emulated(plan, options, say, follow=follow)
    if dist.get_rank() == 0:
        say(f"building {plan.graph.source} on {dist.get_world_size()} ranks")
    captured, make_example = model_of(plan, options.seed)
    return train_captured(
        captured,
        plan,
        options,
        say,
        make_example=make_example,
        follow=follow,
        record_loss=record_loss,
        devices=devices,
    )


def main(folder: Path) -> int:
    """Runs this rank's part of the job in `folder`; returns the exit status."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is something to keep
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    heartbeat = Heartbeat(beat_file(folder, rank))
    heartbeat.start()
    job = json.loads((folder / "job.json").read_text())
    try:
        plan, options = plan_from_dict(job["plan"]), RunOptions.read(job["options"])
        init_process_group(f"file://{folder / 'store'}")
        report = train(
            plan,
            options,
            lambda line: _append(progress_file(folder), line),
            follow=heartbeat.follow,
            record_loss=lambda step, loss: _append(_loss_file(folder), f"{step} {loss.hex()}"),
        )
        if rank == 0:
            write_atomically(folder / _REPORT_FILE, json.dumps(dataclasses.asdict(report)))
        dist.barrier()
    except DrlppError as error:
        write_atomically(error_file(folder, rank), f"{type(error).__name__}: {error}")
        return FAILED if not isinstance(error, ValueError) else REFUSED
    except Exception as error:  # noqa: BLE001 (reported to the launcher, which raises it)
        traceback.print_exc()
        write_atomically(error_file(folder, rank), f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return FAILED
    return 0


def _exit_with_parent() -> None:
    """Ends this process when the launcher, which holds the other end of the standard input, is gone."""
    sys.stdin.read()
    os._exit(FAILED)
