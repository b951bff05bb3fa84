"""``drlpp run``: train a model under a plan, for real."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_output
from drlpp.cli.option_groups import grouped
from drlpp.cli.terminal import out, print_json, say

_EPILOG = """Examples:

drlpp run plan.json --steps 5 --verify

drlpp run plan.json --steps 1000 --checkpoint checkpoints --elastic

drlpp run plan.json --steps 1000 --checkpoint checkpoints --elastic --adapt

drlpp run plan.json --steps 20 --emulate-cluster measured.yaml --json

torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m drlpp run plan.json"""

_EmulateCluster = Annotated[
    Path | None,
    typer.Option(
        "--emulate-cluster",
        metavar="FILE",
        help="Emulate, with devices and links as this cluster file says, whatever the plan believes.",
    ),
]
_EmulateEvents = Annotated[
    Path | None,
    typer.Option(
        "--emulate-events",
        metavar="FILE",
        help="Emulate, with devices and links that slow down from step to step, and jitter (docs/runtime.md).",
    ),
]
_Precision = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option(
        "--precision", help="bf16: compute under bfloat16 autocast [default: that of the plan].", show_default=False
    ),
]
_Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="FILE.py:FUNCTION",
        help="Train on the batches that a function yields; without, drawn ones.",
    ),
]
_Checkpoint = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="DIR", help="Keep checkpoints here, and go on from the last one in it."),
]
_CheckpointEvery = Annotated[
    int,
    typer.Option("--checkpoint-every", help="Steps between checkpoints; there is always one at the end.", min=1),
]
_Adapt = Annotated[
    bool,
    typer.Option(
        "--adapt",
        help="Plan anew from what the run measures, and switch to better plans while training; a process per device.",
    ),
]
_RestartInPlace = Annotated[
    bool, typer.Option("--restart-in-place", help="With --elastic: no device is lost, the same plan starts again.")
]
_MaxRestarts = Annotated[
    int, typer.Option("--max-restarts", help="With --elastic: restarts before the run gives up.", min=0)
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Emulation:
    """Waits in place of computing."""

    emulate: Annotated[
        bool, typer.Option("--emulate", help="Real messages and schedule, but waits in place of computing.")
    ] = False
    emulate_cluster: _EmulateCluster = None
    emulate_events: _EmulateEvents = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Training:
    """What is computed."""

    seed: inputs.Seed = 0
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Of the optimizer that the plan names.", min=0.0)
    ] = 1e-3
    precision: _Precision = None
    data: _Data = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Checkpoints:
    """Where a run goes on from."""

    checkpoint: _Checkpoint = None
    checkpoint_every: _CheckpointEvery = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Changes:
    """When another plan takes over."""

    elastic: Annotated[
        bool,
        typer.Option("--elastic", help="When a rank dies or hangs, plan for the devices that are left and go on."),
    ] = False
    restart_in_place: _RestartInPlace = False
    adapt: _Adapt = False
    max_restarts: _MaxRestarts = 3


def register(app: typer.Typer) -> None:
    app.command("run", epilog=_EPILOG)(grouped(run))


def run(
    *,
    plan: inputs.PlanFile,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps.", min=1)] = 3,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with single-process training of the same seed and batches.")
    ] = False,
    emulation: _Emulation,
    training: _Training,
    checkpoints: _Checkpoints,
    changes: _Changes,
    memory: Annotated[bool, typer.Option("--memory", help="Account for tensor memory (slower).")] = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write the measured Chrome/Perfetto trace here.")
    ] = None,
    as_json: inputs.AsJson = False,
) -> None:
    """Train a model under a plan on torch.distributed: one process per device, or the ranks of torchrun."""
    check_output(trace)
    from drlpp.errors import ExecutionError, InputError
    from drlpp.plan import load_plan

    if not changes.elastic and changes.restart_in_place:
        raise InputError("--restart-in-place says how an elastic run restarts: give --elastic too")
    loaded = load_plan(plan)
    from drlpp.adaptation import adaptation
    from drlpp.export.chrome_trace import chrome_trace
    from drlpp.files import write_atomically
    from drlpp.report.tables import run_tables
    from drlpp.runtime import Elastic
    from drlpp.runtime import run as execute
    from drlpp.solving import replan

    elastic = None
    if changes.elastic:
        elastic = Elastic(replan=None if changes.restart_in_place else replan, max_restarts=changes.max_restarts)
    report = execute(
        loaded,
        steps=steps,
        verify=verify,
        elastic=elastic,
        track_memory=memory,
        adapt=adaptation() if changes.adapt else None,
        say=say,
        **dataclasses.asdict(emulation),
        **dataclasses.asdict(training),
        **dataclasses.asdict(checkpoints),
    )
    if report is None:  # a rank of torchrun that does not report
        return
    if trace:
        write_atomically(trace, chrome_trace(report.trace))
        say(f"trace written to {trace}")
    if as_json:
        print_json(report.to_dict())
    else:
        for table in run_tables(loaded, report):
            out().print(table)
    if report.verification is not None and not report.verification.passed:
        raise ExecutionError(f"verification failed: {report.verification.describe()}")
