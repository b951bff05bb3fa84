"""``drlpp bench``: planners on a suite of problems, with equal budgets, resumed when interrupted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_output, check_planners, check_weights
from drlpp.cli.option_groups import grouped
from drlpp.cli.terminal import counter, out, print_json, say

if TYPE_CHECKING:
    from drlpp.bench.runner import Step
    from drlpp.planners.base import Planner

_EPILOG = """Examples:

drlpp bench --list

drlpp bench paper --budget 30 --seeds 3 -o paper.jsonl --markdown results.md"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Effort:
    """How long each planner searches, and how often."""

    budget: inputs.Budget = 30.0
    cpu_time: Annotated[
        bool,
        typer.Option("--cpu-time", help="Budgets in seconds of processor time: for a machine that others use too."),
    ] = False
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds per case and planner: 0, 1, ...", min=1)] = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Changes:
    """What is other than the cases say."""

    precision: inputs.PrecisionOption = None
    parallelism: Annotated[
        str | None,
        typer.Option(
            "--parallelism",
            metavar="NAMES",
            help="What plans may use, of pp,dp,tp,sp,zero1 [default: what each case says].",
            show_default=False,
        ),
    ] = None


def register(app: typer.Typer) -> None:
    app.command("bench", epilog=_EPILOG)(grouped(bench))


def bench(
    *,
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="Name (see --list) or YAML file of a suite.", show_default=False)
    ] = "",
    planners: Annotated[str, typer.Option("--planners", help="Comma-separated names, or `all`.")] = "all",
    effort: _Effort,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Results, one line per cell; a run goes on from it [default: SUITE.jsonl]."
        ),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the tables into this document, between markers.")
    ] = None,
    changes: _Changes,
    policy: inputs.Policy,
    list_suites: Annotated[bool, typer.Option("--list", help="List the suites.")] = False,
    as_json: inputs.AsJson = False,
) -> None:
    """Run planners on a suite of problems with equal budgets; the same command goes on where it was interrupted."""
    from drlpp.errors import InputError

    if list_suites:
        _list(as_json)
        return
    if not suite:
        raise InputError("no suite is named: write `drlpp bench SUITE`, or `drlpp bench --list` for their names")
    names = inputs.planner_list(planners)
    check_planners(names)
    check_weights(policy.weights)
    from drlpp.bench.suites import find_suite

    chosen = find_suite(suite).at_precision(changes.precision).with_parallelism(changes.parallelism)
    from drlpp.bench.document import write_section
    from drlpp.bench.runner import run_suite
    from drlpp.bench.summary import summarize
    from drlpp.bench.tables import markdown_section, planner_table

    path = output if output is not None else Path(f"{chosen.name}.jsonl")
    check_output(path)
    check_output(markdown)
    with counter(f"bench {chosen.name}") as show:
        rows = run_suite(
            chosen,
            path,
            planners=_makers(names, policy),
            budget_s=effort.budget,
            cpu_time=effort.cpu_time,
            seeds=range(effort.seeds),
            say=say,
            on_step=lambda step: _tell(step, show),
        )
    summary = summarize(rows)
    if markdown is not None:
        command = _command(suite, planners, effort, changes, policy)
        write_section(markdown, f"bench-{chosen.name}", markdown_section(chosen, rows, summary, command))
        say(f"tables written to {markdown}")
    if as_json:
        data: dict[str, Any] = {"suite": chosen.name, "results": str(path), "rows": rows}
        print_json(data | {"planners": [p.to_dict() for p in summary.planners]})
    else:
        out().print(planner_table(chosen, summary))
    say(f"{len(rows)} rows in {path}")


def _makers(names: list[str], policy: inputs.Policy) -> dict[str, Callable[[], Planner]]:
    """Makers of planners, by names that tell rows of `drl` with other options apart."""
    from drlpp.solving import DRL, make_planner

    options = ["policy only"] * policy.policy_only + ([f"weights {policy.weights}"] if policy.weights else [])
    title = f"{DRL} ({', '.join(options)})" if options else DRL
    given = dataclasses.asdict(policy)
    return {title if name == DRL else name: partial(make_planner, name, **given) for name in names}


def _command(suite: str, planners: str, effort: _Effort, changes: _Changes, policy: inputs.Policy) -> str:
    """The command that makes the same tables."""
    command = f"drlpp bench {suite} --planners {planners} --budget {effort.budget:g} --seeds {effort.seeds}"
    command += " --cpu-time" if effort.cpu_time else ""
    command += f" --precision {changes.precision}" if changes.precision else ""
    command += f" --parallelism {changes.parallelism}" if changes.parallelism else ""
    return command + " --policy-only" * policy.policy_only + (f" --weights {policy.weights}" if policy.weights else "")


def _list(as_json: bool) -> None:
    from rich.table import Table

    from drlpp.bench.suites import suites

    if as_json:
        found = {s.name: {"summary": s.summary, "cases": [c.to_dict() for c in s.cases]} for s in suites().values()}
        print_json(found)
        return
    table = Table("suite", "cases", "what it is")
    for suite in suites().values():
        table.add_row(suite.name, str(len(suite.cases)), suite.summary)
    out().print(table)


def _tell(step: Step, show: Any) -> None:
    from drlpp.units import format_time

    left = f"{step.eta_s / 60:.0f} min left" if step.eta_s >= 90 else f"{step.eta_s:.0f} s left"
    show(step.done, step.total, f"{step.what}, {left}")
    if step.row is not None:
        value = step.row["value_s"]
        found = format_time(value) if value is not None else f"{step.row['status']}: {step.row['reason']}"
        say(f"[{step.done}/{step.total}, {left}] {step.what}: {found} ({step.row['planning_time_s']:.1f} s)")
