"""``drlpp compare``: several planners on one problem, with the same budget and the same evaluator."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_output, check_problem, check_weights
from drlpp.cli.option_groups import grouped
from drlpp.cli.terminal import out, say

_EPILOG = """Example:

drlpp compare timm:inception_v3 --cluster mixed-a100-v100-t4 --budget 30 --json rows.json --html rows.html"""


def register(app: typer.Typer) -> None:
    app.command("compare", epilog=_EPILOG)(grouped(compare))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Files:
    """What is written."""

    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows, with their plans, here.")] = None
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a report of the best plan here.")] = None
    plans_dir: Annotated[Path | None, typer.Option("--plans-dir", help="Write each row's plan file here.")] = None


def compare(
    *,
    model: inputs.Model,
    cluster: inputs.ClusterOption,
    planners: Annotated[str, typer.Option("--planners", help="Comma-separated names, or `all` that apply.")] = "all",
    budget: inputs.Budget = 30.0,
    seed: inputs.Seed = 0,
    objective: inputs.ObjectiveOption = "iteration-time",
    step: inputs.Step,
    serving: inputs.Serving,
    policy: inputs.Policy,
    files: _Files,
) -> None:
    """Compare planners on one problem: a row for each, failures included, with the gap to the lower bound."""
    check_output(files.json_file)
    check_output(files.html_file)
    names = inputs.planner_list(planners)
    check_problem(model, cluster, names)
    check_weights(policy.weights)
    problem = inputs.load_problem(model, cluster, objective, step, serving)
    from drlpp.cli.solve import solve_visibly
    from drlpp.errors import InfeasibleError
    from drlpp.files import write_atomically
    from drlpp.json_text import json_text
    from drlpp.plan import save_plan
    from drlpp.planners.variants import lower_bound_over_variants
    from drlpp.report.comparison import compare_results
    from drlpp.report.html import write_report
    from drlpp.report.tables import comparison_table
    from drlpp.solving import make_planner

    chosen = [make_planner(name, **dataclasses.asdict(policy)) for name in names]
    results = []
    for planner in chosen:
        results.append(solve_visibly(planner, problem, budget, seed))
        say(f"{planner.name}: {results[-1].status}, {results[-1].planning_time_s:.1f} s")
    if planners == "all":
        results = [r for r in results if r.status != "not-applicable"]
    comparison = compare_results(problem, results, lower_bound_over_variants(problem))
    out().print(comparison_table(comparison))
    if files.json_file:
        write_atomically(files.json_file, json_text(comparison.to_dict()) + "\n")
        say(f"rows written to {files.json_file}")
    if files.plans_dir:
        files.plans_dir.mkdir(parents=True, exist_ok=True)
        for result in results:
            if result.plan is not None:
                save_plan(result.plan, files.plans_dir / f"{result.planner}.json")
        say(f"plan files written to {files.plans_dir}")
    best = comparison.best
    if best is None:
        raise InfeasibleError("no planner found a plan that fits: the rows say why")
    if files.html_file and best.plan is not None:
        write_report(best.plan, files.html_file, comparison=comparison)
        say(f"report written to {files.html_file}")
