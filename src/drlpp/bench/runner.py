"""Runs the cells of a suite (case x planner x seed), each with the same budget, and resumes.

Left out: running cells side by side. Budgets are wall-clock seconds by default, so cells that share a processor would
take time from each other. On a machine that does other work too, budgets of processor time make rows comparable.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drlpp.bench.case import Case, Suite
from drlpp.bench.results import Row, append_row, read_rows
from drlpp.bench.settings import commit, difference, machine, settings
from drlpp.errors import DrlppError
from drlpp.graph import graph_hash
from drlpp.planners.base import Budget, Planner, PlanResult, gap_to
from drlpp.planners.bounds.lower_bound import Bound
from drlpp.planners.variants import lower_bound_over_variants
from drlpp.problem import PlanningProblem
from drlpp.solving import make_planner, solve

WARM_UP = Case("warm-up", "generated:dag?ops=12", "mixed-desktops")
"""A small problem that every planner plans before the first budget starts."""
WARM_UP_S = 0.5

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """How far a run is.

    Attributes:
        done, total: cells; `done` counts those of earlier runs too.
        what: the cell that is run now, or the one just finished, for people.
        row: of the cell just finished; None before it.
        eta_s: seconds that the rest is expected to take.
    """

    done: int
    total: int
    what: str
    row: Row | None
    eta_s: float


def run_suite(
    suite: Suite,
    path: Path,
    *,
    planners: Sequence[str] | Mapping[str, Callable[[], Planner]],
    budget_s: float,
    seeds: Sequence[int] = (0,),
    cpu_time: bool = False,
    say: Callable[[str], None] = lambda message: None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> list[Row]:
    """Runs what is missing of a suite; every finished cell is a line of the results file at once.

    A cell of an earlier run counts if its case, planner and seed are the same, and everything in
    `drlpp.bench.settings.settings`; others stay in the file and are run again, and `say` tells why.

    Args:
        path: the results file.
        planners: names, or name -> maker of a planner (for variants; the name must tell them apart).
        budget_s: seconds of every cell.
        cpu_time: count seconds of processor time of this process, not of the wall clock.
        seeds: of every case and planner.
        say: messages for people.
        on_step: called before and after each cell.

    Returns:
        The rows of all cells, in the order of cases, planners and seeds.

    Raises:
        InputError: a planner is not known, or the results file cannot be used.
    """
    makers = planners if isinstance(planners, Mapping) else {name: _maker(name) for name in planners}
    ready = {name: make() for name, make in makers.items()}
    now = settings(budget_s, cpu_time)
    known, stale = _known_rows(read_rows(path), now)
    cells = [(case, name, seed) for case in suite.cases for name in makers for seed in seeds]
    rows = {cell: known[_key(*cell)] for cell in cells if _key(*cell) in known}
    if stale and len(rows) < len(cells):
        say(f"{len(stale)} rows of {path} are of other settings ({stale[-1]}) and do not count")
    if rows:
        say(f"{len(rows)} of {len(cells)} cells are done already: {path}")
    missing = [cell for cell in cells if cell not in rows]
    _warm_up(ready, {name for _, name, _ in missing}, say)
    clock = _Clock(budget_s)
    prepared: tuple[Case, PlanningProblem | str, Bound] | None = None
    for i, (case, name, seed) in enumerate(missing):
        if prepared is None or prepared[0] is not case:
            prepared = (case, *_prepare(case))
        what = f"{case.name}, {name}, seed {seed}"
        on_step(Step(len(rows), len(cells), what, None, clock.left_s([n for _, n, _ in missing[i:]])))
        start = time.perf_counter()
        row = run_cell(case, name, ready[name], seed, prepared[1], prepared[2], now)
        clock.add(name, time.perf_counter() - start)
        append_row(path, row)
        rows[case, name, seed] = row
        on_step(Step(len(rows), len(cells), what, row, clock.left_s([n for _, n, _ in missing[i + 1 :]])))
    return [rows[cell] for cell in cells]


def run_cell(
    case: Case,
    name: str,
    planner: Planner,
    seed: int,
    problem: PlanningProblem | str,
    bound: Bound,
    now: Mapping[str, Any],
) -> dict[str, Any]:
    """One planner on one case; whatever goes wrong is a row with its reason.

    Args:
        problem: or why there is none.
        bound: of the problem.
        now: the settings.

    Returns:
        The row: case, planner, seed, settings; sizes of the problem; `lower_bound_s` and `bound_kind`; `status`,
        `reason`, `value_s` (of the objective), its `gap` to the bound, `iteration_time_s`, `bottleneck_s`,
        `planning_time_s` (by the clock of the budget), `num_stages`, `schedule`, `used_devices`, `history`,
        `breakdown`; `commit`, `machine`, `finished`.
    """
    row: dict[str, Any] = {
        "case": case.to_dict(),
        "planner": name,
        "seed": seed,
        "settings": dict(now),
        "lower_bound_s": bound.value_s if math.isfinite(bound.value_s) else None,
        "bound_kind": bound.kind,
    }
    clock = time.process_time if now["clock"] == "cpu" else time.perf_counter
    start = clock()
    if isinstance(problem, str):
        row |= {"status": "failed", "reason": problem, "value_s": None, "planning_time_s": 0.0}
    else:
        row |= {
            "num_ops": problem.graph.num_ops,
            "num_devices": problem.cluster.num_devices,
            "num_microbatches": problem.training.num_microbatches,
            "graph_hash": graph_hash(problem.graph),
        }
        try:
            result = solve(problem, planner, budget=Budget(now["budget_s"], clock), seed=seed)
        except Exception as error:  # a defect of one planner is a row, not the end of the benchmark
            log.exception("%s on %s", name, case.name)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            result = PlanResult(planner=name, status="failed", plan=None, planning_time_s=0.0, reason=reason)
        row |= _outcome(result, problem, bound) | {"planning_time_s": clock() - start}
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return row | {"commit": commit(), "machine": machine(), "finished": finished}


def _outcome(result: PlanResult, problem: PlanningProblem, bound: Bound) -> dict[str, Any]:
    out: dict[str, Any] = {
        "status": result.status,
        "reason": result.reason,
        "value_s": None,
        "history": [list(point) for point in result.history],
        "breakdown": {k: v for k, v in result.breakdown.items() if math.isfinite(v)},
    }
    if result.plan is not None and result.plan.prediction is not None:
        plan, prediction = result.plan, result.plan.prediction
        value_s = problem.objective.value_s(prediction)
        out |= {
            "value_s": value_s,
            "gap": gap_to(value_s, bound.value_s) if bound.value_s > 0 else None,
            "iteration_time_s": prediction.iteration_time_s,
            "bottleneck_s": prediction.bottleneck_s,
            "num_stages": plan.num_stages,
            "schedule": plan.schedule_name,
            "used_devices": len(plan.used_devices),
        }
    return out


def _prepare(case: Case) -> tuple[PlanningProblem | str, Bound]:
    try:
        problem = case.problem()
    except DrlppError as error:
        return str(error), Bound(0.0, "none")
    return problem, lower_bound_over_variants(problem)


def _maker(name: str) -> Callable[[], Planner]:
    return lambda: make_planner(name)


_Key = tuple[str, str, int]


def _key(case: Case, planner: str, seed: int) -> _Key:
    return json.dumps(case.to_dict(), sort_keys=True), planner, seed


def _known_rows(rows: Sequence[Row], now: dict[str, Any]) -> tuple[dict[_Key, Row], list[str]]:
    """Rows that count by their cell (the last of equals), and how the settings of the others differ."""
    known: dict[_Key, Row] = {}
    stale = []
    for row in rows:
        changed = difference(row["settings"], now)
        if changed:
            stale.append(changed)
        else:
            known[json.dumps(row["case"], sort_keys=True), row["planner"], row["seed"]] = row
    return known, stale


def _warm_up(planners: Mapping[str, Planner], needed: set[str], say: Callable[[str], None]) -> None:
    """Loads libraries and weights, so that budgets begin after that."""
    if not needed:
        return
    say("loading planners")
    problem = WARM_UP.problem()
    for name in needed:
        try:
            solve(problem, planners[name], budget=WARM_UP_S)
        except Exception:  # the cells of this planner will tell
            log.exception("%s fails on a small problem", name)


class _Clock:
    """Seconds of finished cells by planner, to tell what the rest will take."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._taken: dict[str, list[float]] = {}

    def add(self, planner: str, seconds: float) -> None:
        self._taken.setdefault(planner, []).append(seconds)

    def left_s(self, planners: Sequence[str]) -> float:
        """Expected seconds of cells of these planners: the mean of those before, or the budget for the first."""
        mean = {name: sum(t) / len(t) for name, t in self._taken.items()}
        return sum(mean.get(name, self._budget_s) for name in planners)
