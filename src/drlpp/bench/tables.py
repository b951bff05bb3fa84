"""The summary of a benchmark on the terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from drlpp.bench.case import Suite
from drlpp.bench.document import markdown_table
from drlpp.bench.results import Row
from drlpp.bench.summary import CaseSummary, PlannerSummary, Summary
from drlpp.units import format_time

_HEADER = ("planner", "plans", "to best", "to bound", "over DP", "over PipeDream", "wins", "losses", "worst", "seconds")


def planner_table(suite: Suite, summary: Summary) -> Table:
    """A row for each planner, best first."""
    shown = [_HEADER.index(name) for name in ("planner", "plans", "to best", "to bound", "over DP", "wins", "seconds")]
    table = Table(*(_HEADER[i] for i in shown), title=f"{suite.name}: {len(summary.cases)} cases")
    for planner in summary.planners:
        cells = _planner_cells(planner)
        table.add_row(*(cells[i] for i in shown))
    return table


def markdown_section(suite: Suite, rows: Sequence[Row], summary: Summary, command: str) -> str:
    """The suite's part of a document: how it was run, planners, cases, and why cells have no plan."""
    seeds = len({row["seed"] for row in rows})
    names = [p.planner for p in summary.planners]
    budget_s, machine = rows[0]["settings"]["budget_s"], rows[-1]["machine"]
    what = "of processor time " if rows[0]["settings"]["clock"] == "cpu" else ""
    parts = [
        f"{suite.summary[:1].upper()}{suite.summary[1:]}. {len(summary.cases)} cases, {budget_s:g} s {what}per "
        f"planner and case, {seeds} seed{'s' if seeds > 1 else ''}; {machine}; `{command}`.",
        "Geometric means over the cells with a plan: *to best* is the value over the best known of the case, *to "
        "bound* over the certified lower bound, *over DP* and *over PipeDream* how many times faster than these. "
        "*Wins* are cells within 0.5 % of the best; *seconds* are the median and the longest planning time.",
        markdown_table(_HEADER, [_planner_cells(p) for p in summary.planners]),
        "Value over the best known of the case, and seconds of planning:",
        markdown_table(
            ("case", "ops", "devices", "best", "by", "gap to bound", *names),
            [_case_cells(case, names) for case in summary.cases],
        ),
    ]
    if summary.failures:
        parts.append("No plan:\n\n" + "\n".join(f"- {p} on {c}: {s}: {r}" for p, c, s, r in summary.failures))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _planner_cells(p: PlannerSummary) -> list[str]:
    worst = f"{p.worst:.2f} ({p.worst_case})" if math.isfinite(p.worst) else f"no plan ({p.worst_case})"
    return [
        p.planner,
        f"{p.solved}/{p.cells}",
        _ratio(p.over_best, 3),
        _ratio(p.over_bound, 3),
        _ratio(p.over_data_parallel, 2),
        _ratio(p.over_pipedream, 2),
        str(p.wins),
        str(p.losses),
        worst,
        f"{p.median_s:.2f}, {p.slowest_s:.2f}",
    ]


def _case_cells(case: CaseSummary, names: Sequence[str]) -> list[str]:
    cells = [case.case, str(case.num_ops or "-"), str(case.num_devices or "-")]
    cells.append(format_time(case.best_s) if case.best_s is not None else "-")
    cells += [case.best_planner or "-", f"{100 * case.gap:.1f}%" if case.gap is not None else "-"]
    for name in names:
        value = case.value_s.get(name)
        found = f"{value / case.best_s:.3f}" if value is not None and case.best_s else case.status.get(name, "-")
        cells.append(f"{found}, {case.planning_s.get(name, 0.0):.2f} s")
    return cells


def _ratio(value: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" if value is not None else "-"
