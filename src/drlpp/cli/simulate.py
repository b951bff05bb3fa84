"""``drlpp simulate`` and ``drlpp validate``: what a plan would do, and whether it is legal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_output
from drlpp.cli.terminal import out, print_json, say
from drlpp.units import format_bytes


def register(app: typer.Typer) -> None:
    app.command("simulate", epilog="Example:\n\ndrlpp simulate plan.json --trace trace.json")(simulate)
    app.command("validate", epilog="Example:\n\ndrlpp validate plan.json")(validate)


def simulate(
    plan: inputs.PlanFile,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write a Chrome/Perfetto trace here (open in ui.perfetto.dev).")
    ] = None,
    as_json: inputs.AsJson = False,
) -> None:
    """Simulate one step of a plan: time, memory, what limits it and what would help."""
    check_output(trace)
    from drlpp.errors import InfeasibleError
    from drlpp.export.chrome_trace import chrome_trace
    from drlpp.files import write_atomically
    from drlpp.plan import load_plan
    from drlpp.plan import validate as check
    from drlpp.report.tables import simulation_tables
    from drlpp.sim import explain
    from drlpp.sim import simulate as run

    loaded = load_plan(plan)
    check(loaded)
    simulation = run(loaded)
    explanation = explain(simulation)
    if trace:
        write_atomically(trace, chrome_trace(simulation.trace))
        say(f"trace written to {trace}")
    if as_json:
        print_json(
            {
                "status": "ok" if simulation.feasible else "infeasible",
                **dataclasses.asdict(simulation.prediction),
                "num_stages": loaded.num_stages,
                "num_microbatches": loaded.num_microbatches,
                "schedule_name": loaded.schedule_name,
                "bottleneck": explanation.bottleneck,
                "busy_s": explanation.busy_s,
                "explanation": explanation.lines(),
            }
        )
    else:
        for table in simulation_tables(simulation):
            out().print(table)
        for line in explanation.lines():
            out().print(line, markup=False)
    if not simulation.feasible:
        device, excess = max(simulation.infeasible, key=lambda d: d[1])
        raise InfeasibleError(
            f"device {device} lacks {format_bytes(excess)} of memory: give it fewer ops, let a stage recompute, or use "
            "fewer micro-batches in flight"
        )


def validate(plan: inputs.PlanFile) -> None:
    """Check that a plan is legal: every op in one stage, edges forward, schedule complete and free of deadlock."""
    from drlpp.plan import load_plan
    from drlpp.plan import validate as check

    loaded = load_plan(plan)
    check(loaded)
    stages = "stage" if loaded.num_stages == 1 else "stages"
    out().print(
        f"legal: {loaded.num_stages} {stages}, {loaded.graph.num_ops} ops, {len(loaded.schedule)} of "
        f"{loaded.cluster.num_devices} devices, {loaded.num_microbatches} micro-batches",
        markup=False,
        soft_wrap=True,
    )
