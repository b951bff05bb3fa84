"""What the rows of a benchmark say: per planner over all cells, and per case."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from drlpp.bench.results import Row

TIE = 1.005
"""A plan within half a per cent of the best counts as the best."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSummary:
    """One planner over all its cells.

    Attributes:
        cells, solved: how many there are, and with a plan.
        over_best: geometric mean, over the cells with a plan, of its value over the best known of the case.
        over_bound: the same over the certified lower bound.
        over_data_parallel, over_pipedream: geometric mean of that planner's value over this one's, where both have a
            plan (above 1: this one is faster); None where there is no such cell.
        wins: cells in which it is the best, or within half a per cent of it.
        losses: the others, cells without a plan included.
        worst, worst_case: the largest ratio to the best known, and where; infinite where it has no plan.
        median_s, slowest_s: seconds of planning.
    """

    planner: str
    cells: int
    solved: int
    over_best: float | None
    over_bound: float | None
    over_data_parallel: float | None
    over_pipedream: float | None
    wins: int
    losses: int
    worst: float
    worst_case: str
    median_s: float
    slowest_s: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON-ready form."""
        return {**dataclasses.asdict(self), "worst": self.worst if math.isfinite(self.worst) else None}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaseSummary:
    """One case over all planners.

    Attributes:
        best_s, best_planner: the best known value of the objective and who found it (the first of equals).
        gap: of the best known to the lower bound; None without either.
        value_s: planner -> geometric mean over the seeds; None where a seed has no plan.
        status: planner -> of its first seed that has no plan, else ``ok``.
        planning_s: planner -> mean seconds.
    """

    case: str
    num_ops: int | None
    num_devices: int | None
    best_s: float | None
    best_planner: str
    gap: float | None
    value_s: Mapping[str, float | None]
    status: Mapping[str, str]
    planning_s: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Planners from best to worst, cases in their order, and cells without a plan: (planner, case, status, reason)."""

    planners: tuple[PlannerSummary, ...]
    cases: tuple[CaseSummary, ...]
    failures: tuple[tuple[str, str, str, str], ...]


def summarize(rows: Sequence[Row]) -> Summary:
    """Summarises the rows that `run_suite` returns; cells where a planner does not apply are left out."""
    rows = [row for row in rows if row["status"] != "not-applicable"]
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row["case"]["name"], []).append(row)
    cases = tuple(_case(name, found) for name, found in by_case.items())
    best = {c.case: c.best_s for c in cases}
    names = list(dict.fromkeys(row["planner"] for row in rows))
    planners = [_planner(name, [r for r in rows if r["planner"] == name], best, cases) for name in names]
    planners.sort(key=lambda p: (-p.solved / p.cells, p.over_best or math.inf))
    failures = tuple(
        dict.fromkeys(
            (row["planner"], row["case"]["name"], row["status"], row["reason"])
            for row in rows
            if row["value_s"] is None
        )
    )
    return Summary(planners=tuple(planners), cases=cases, failures=failures)


def _case(name: str, rows: Sequence[Row]) -> CaseSummary:
    solved = [row for row in rows if row["value_s"] is not None]
    best = min(solved, key=lambda row: row["value_s"], default=None)
    bound = rows[0]["lower_bound_s"]
    value: dict[str, float | None] = {}
    status: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for planner in dict.fromkeys(row["planner"] for row in rows):
        own = [row for row in rows if row["planner"] == planner]
        value[planner] = geometric_mean([row["value_s"] for row in own])
        status[planner] = next((row["status"] for row in own if row["value_s"] is None), "ok")
        seconds[planner] = statistics.fmean(row["planning_time_s"] for row in own)
    return CaseSummary(
        case=name,
        num_ops=rows[0].get("num_ops"),
        num_devices=rows[0].get("num_devices"),
        best_s=best["value_s"] if best else None,
        best_planner=best["planner"] if best else "",
        gap=best["value_s"] / bound - 1 if best and bound else None,
        value_s=value,
        status=status,
        planning_s=seconds,
    )


def _planner(
    name: str, rows: Sequence[Row], best: Mapping[str, float | None], cases: Sequence[CaseSummary]
) -> PlannerSummary:
    ratios = []
    for row in rows:
        known, value = best[row["case"]["name"]], row["value_s"]
        ratios.append((value / known if known and value is not None else math.inf, row["case"]["name"]))
    finite = [ratio for ratio, _ in ratios if math.isfinite(ratio)]
    wins = sum(ratio <= TIE for ratio, _ in ratios)
    worst, worst_case = max(ratios)
    seconds = [row["planning_time_s"] for row in rows]
    bounded = [r["value_s"] / r["lower_bound_s"] for r in rows if r["value_s"] is not None and r["lower_bound_s"]]
    return PlannerSummary(
        planner=name,
        cells=len(rows),
        solved=len(finite),
        over_best=geometric_mean(finite),
        over_bound=geometric_mean(bounded),
        over_data_parallel=_faster_than("data-parallel", name, cases),
        over_pipedream=_faster_than("pipedream", name, cases),
        wins=wins,
        losses=len(rows) - wins,
        worst=worst,
        worst_case=worst_case,
        median_s=statistics.median(seconds),
        slowest_s=max(seconds),
    )


def _faster_than(other: str, planner: str, cases: Sequence[CaseSummary]) -> float | None:
    pairs = [(c.value_s.get(other), c.value_s.get(planner)) for c in cases]
    return geometric_mean([a / b for a, b in pairs if a is not None and b is not None])


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """None if there are no values, or one is missing or not positive."""
    known = [v for v in values if v is not None and v > 0]
    return math.exp(statistics.fmean(math.log(v) for v in known)) if known and len(known) == len(values) else None
