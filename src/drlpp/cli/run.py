"""``drlpp run``: train a model under a plan, for real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drlpp.cli import inputs
from drlpp.cli.terminal import check_writable, out, print_json, say
from drlpp.units import format_bytes, format_time

if TYPE_CHECKING:
    from rich.table import Table

    from drlpp.plan import Plan
    from drlpp.runtime import RunReport

_EPILOG = """Examples:

drlpp run plan.json --steps 5 --verify

torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m drlpp run plan.json"""


def register(app: typer.Typer) -> None:
    app.command("run", epilog=_EPILOG)(run)


def run(
    plan: inputs.PlanFile,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps.", min=1)] = 3,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with single-process training of the same seed and batches.")
    ] = False,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Real messages and schedule, but waits in place of computing.")
    ] = False,
    seed: inputs.Seed = 0,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Of the optimizer that the plan names.", min=0.0)
    ] = 1e-3,
    memory: Annotated[bool, typer.Option("--memory", help="Account for tensor memory (slower).")] = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write the measured Chrome/Perfetto trace here.")
    ] = None,
    as_json: inputs.AsJson = False,
) -> None:
    """Train a model under a plan on torch.distributed: one process per device, or the ranks of torchrun."""
    check_writable(trace)
    from drlpp.errors import ExecutionError
    from drlpp.export.chrome_trace import chrome_trace
    from drlpp.files import write_atomically
    from drlpp.plan import load_plan
    from drlpp.runtime import run as execute

    loaded = load_plan(plan)
    report = execute(
        loaded,
        steps=steps,
        verify=verify,
        emulate=emulate,
        seed=seed,
        learning_rate=learning_rate,
        track_memory=memory,
        say=say,
    )
    if report is None:  # a rank of torchrun that does not report
        return
    if trace:
        write_atomically(trace, chrome_trace(report.trace))
        say(f"trace written to {trace}")
    if as_json:
        print_json(report.to_dict())
    else:
        out().print(run_table(loaded, report))
    if report.verification is not None and not report.verification.passed:
        raise ExecutionError(f"verification failed: {report.verification.describe()}")


def run_table(plan: Plan, report: RunReport) -> Table:
    """What a run measured, beside what was predicted."""
    from rich.table import Table

    table = Table(title=f"{plan.graph.name} on {plan.cluster.name}", title_justify="left", show_header=False)
    measured = report.iteration_time_s
    table.add_row("measured iteration", f"{format_time(measured)} (median of {len(report.iteration_times_s)} steps)")
    if report.predicted_s:
        ratio = f"measured is {measured / report.predicted_s:.2f}x of it"
        table.add_row("predicted iteration", f"{format_time(report.predicted_s)} ({ratio})")
    if report.losses:
        table.add_row("loss", " ".join(f"{loss:.6f}" for loss in report.losses))
    if any(report.peak_memory_bytes):
        table.add_row("peak memory", ", ".join(format_bytes(b) for b in report.peak_memory_bytes))
    if report.verification is not None:
        for d in report.verification.differences:
            table.add_row(f"verify: {d.quantity}", f"largest relative error {d.error:.1e} in {d.name}, of {d.compared}")
        verdict = "equal to" if report.verification.passed else "NOT equal to"
        table.add_row("verify", f"{verdict} single-process training within {report.verification.tolerance:.0e}")
    return table
