"""``drlpp calibrate``: costs that a run measured, for the next plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_output
from drlpp.cli.terminal import out, print_json, say

_EPILOG = """Examples:

drlpp run plan.json --steps 5 --trace trace.json

drlpp calibrate plan.json --trace trace.json -o measured.json --cluster-out measured.yaml

drlpp plan measured.json --cluster measured.yaml -o better.json"""


def register(app: typer.Typer) -> None:
    app.command("calibrate", epilog=_EPILOG)(calibrate)


def calibrate(
    plan: inputs.PlanFile,
    trace: Annotated[
        list[Path],
        typer.Option(
            "--trace", help="Trace that `drlpp run PLAN --trace` wrote; give it again for more.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="GRAPH", help="Write the graph with measured times here.")
    ] = None,
    cluster_out: Annotated[
        Path | None, typer.Option("--cluster-out", metavar="FILE", help="Write the cluster with measured costs here.")
    ] = None,
    as_json: inputs.AsJson = False,
) -> None:
    """Fit costs to a measured run of a plan: of devices, links and classes of ops, with their uncertainty."""
    check_output(output)
    check_output(cluster_out)
    import yaml

    from drlpp.cluster import cluster_to_dict
    from drlpp.cost.calibration import calibrate as fit
    from drlpp.cost.calibration import calibrated_plan, measurements, summary
    from drlpp.export.read_trace import read_chrome_trace
    from drlpp.files import write_atomically
    from drlpp.graph import save_graph
    from drlpp.plan import load_plan
    from drlpp.report.calibration import calibration_table
    from drlpp.sim import simulate
    from drlpp.units import format_time

    loaded = load_plan(plan)
    measured = measurements(loaded, [read_chrome_trace(path) for path in trace])
    found = fit([measured])
    better = calibrated_plan(loaded, found)
    before_s = simulate(loaded).prediction.iteration_time_s
    after_s = simulate(better).prediction.iteration_time_s
    if output:
        save_graph(better.graph, output)
        say(f"{output}: {better.graph.num_ops} ops with measured times of {len(better.cluster.device_types)} types")
    if cluster_out:
        write_atomically(cluster_out, yaml.safe_dump(cluster_to_dict(better.cluster), sort_keys=False))
        say(f"{cluster_out}: the cluster with measured costs")
    answer = {
        "measured_iteration_time_s": measured.iteration_time_s,
        "predicted_iteration_time_s": before_s,
        "calibrated_iteration_time_s": after_s,
        **summary(found),
    }
    if as_json:
        print_json(answer)
        return
    out().print(calibration_table(answer))
    out().print(
        f"iteration: {format_time(measured.iteration_time_s)} measured, {format_time(before_s)} predicted before, "
        f"{format_time(after_s)} with calibrated costs",
        markup=False,
        soft_wrap=True,
    )
