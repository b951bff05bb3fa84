"""``drlpp whatif``: which change of the cluster or of the step would bring most."""

from __future__ import annotations

from typing import Annotated

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_problem
from drlpp.cli.option_groups import grouped
from drlpp.cli.terminal import interrupt_ends, out, planner_progress, print_json, say

_EPILOG = """Example:

drlpp whatif timm:inception_v3 --cluster mixed-a100-v100-t4 --budget 5"""


def register(app: typer.Typer) -> None:
    app.command("whatif", epilog=_EPILOG)(grouped(whatif))


def whatif(
    *,
    model: inputs.Model,
    cluster: inputs.ClusterOption,
    planner: Annotated[str, typer.Option("--planner", help="See `drlpp planners`.")] = "drl",
    budget: Annotated[float, typer.Option("--budget", help="Seconds of search per change.", min=0.0)] = 10.0,
    seed: inputs.Seed = 0,
    objective: inputs.ObjectiveOption = "iteration-time",
    step: inputs.Step,
    as_json: inputs.AsJson = False,
) -> None:
    """Rank changes (devices, links, memory, micro-batches) by the gain in throughput that they would bring."""
    check_problem(model, cluster, [planner])
    problem = inputs.load_problem(model, cluster, objective, step)
    from rich.table import Table

    from drlpp.errors import InfeasibleError
    from drlpp.planners.base import Budget
    from drlpp.report.wording import format_count
    from drlpp.solving import make_planner
    from drlpp.units import format_time
    from drlpp.whatif import changes, what_if

    chosen = make_planner(planner)
    number = len(changes(problem)) + 1
    say(f"planning {number} variants, up to {budget:g} s each (Ctrl-C ends with those done so far)")
    limit = Budget(float("inf"))
    with interrupt_ends(limit), planner_progress("whatif") as progress:
        today, outcomes = what_if(
            problem, chosen, budget_s=budget, seed=seed, progress=progress, stop=lambda: limit.spent
        )
    if as_json:
        print_json(
            {
                "planner": planner,
                "objective": objective,
                "num_microbatches": problem.training.num_microbatches,
                "as_it_is": today.to_dict(),
                "changes": [o.to_dict() for o in outcomes],
            }
        )
    else:
        table = Table("change", "gain", "samples/s", "step", title=f"{model} on {cluster}")
        for outcome in (today, *outcomes):
            speed, seconds = outcome.throughput_samples_per_s, outcome.iteration_time_s
            gain = "" if outcome is today else f"{100 * outcome.gain:+.1f} %" if outcome.gain is not None else "-"
            figures = (gain, format_count(speed) if speed else outcome.status, format_time(seconds) if seconds else "-")
            table.add_row(outcome.change, *figures)
        out().print(table)
        if today.gain is None:
            say(f"as it is, there is no plan ({today.reason}): changes are ranked by throughput")
        for outcome in outcomes:
            if outcome.caveat or outcome.reason:
                say(f"{outcome.change}: {outcome.caveat or outcome.reason}")
    if today.status != "ok" and all(o.status != "ok" for o in outcomes):
        raise InfeasibleError(f"no plan fits, with or without a change: {today.reason}")
