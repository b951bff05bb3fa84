"""``drlpp export`` and ``drlpp report``: a plan for other engines, and for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_output
from drlpp.cli.terminal import say

_FORMATS = (
    "torch-schedule, torch-split, torchtitan, megatron, deepspeed, vllm, sglang, accelerate; slurm, kubernetes, ray; "
    "dot, dot-ops, chrome-trace (docs/exports.md)."
)


def register(app: typer.Typer) -> None:
    app.command("export", epilog="Example:\n\ndrlpp export plan.json --to torchtitan -o parallelism.toml")(export)
    app.command("report", epilog="Example:\n\ndrlpp report plan.json -o report.html")(report)


def export(
    plan: inputs.PlanFile,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help=_FORMATS, show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Write the file here.", show_default=False)],
) -> None:
    """Write a plan in the form that another engine, or what starts jobs, reads."""
    check_output(output)
    from drlpp.export import EXPORTERS, get_exporter
    from drlpp.files import write_atomically
    from drlpp.plan import load_plan, validate

    exporter = get_exporter(to)
    loaded = load_plan(plan)
    validate(loaded)
    write_atomically(output, exporter(loaded))
    say(f"{EXPORTERS[to].summary} written to {output}")


def report(
    plan: inputs.PlanFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Write the HTML page here.", show_default=False)],
    comparison: Annotated[
        Path | None, typer.Option("--comparison", help="Rows written by `drlpp compare --json`.")
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", help="Trace written by `drlpp run --trace`, drawn beside the predicted."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="What `drlpp run --json` printed: its steps, marked where it took another plan."),
    ] = None,
) -> None:
    """Write one self-contained HTML page: stages, timeline, memory, bottleneck and advice."""
    check_output(output)
    from drlpp.export import read_chrome_trace
    from drlpp.plan import load_plan, validate
    from drlpp.report.comparison import load_comparison
    from drlpp.report.html import write_report
    from drlpp.report.run_record import load_run

    loaded = load_plan(plan)
    validate(loaded)
    write_report(
        loaded,
        output,
        comparison=load_comparison(comparison) if comparison else None,
        measured=read_chrome_trace(measured) if measured else None,
        run=load_run(run) if run else None,
    )
    say(f"report written to {output}")
