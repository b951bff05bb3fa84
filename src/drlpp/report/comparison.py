"""Planners side by side on one problem: the rows of `drlpp compare`, failures included, and their JSON form."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from drlpp.errors import InputError
from drlpp.files import read_text
from drlpp.graph import graph_hash
from drlpp.plan import Objective, Plan, plan_from_dict, plan_to_dict
from drlpp.planners.base import PlanResult, Status, gap_to
from drlpp.planners.break_even import break_even
from drlpp.problem import PlanningProblem

if TYPE_CHECKING:
    from drlpp.planners.bounds.lower_bound import Bound

DATA_PARALLEL = "data-parallel"
"""Name of the planner that speed-ups are relative to."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSummary:
    """What was planned."""

    model: str
    source: str
    graph_hash: str
    num_ops: int
    cluster: str
    num_devices: int
    num_microbatches: int
    samples_per_microbatch: int
    optimizer: str
    objective: Objective

    @classmethod
    def of(cls, problem: PlanningProblem) -> ProblemSummary:
        """The summary of a problem."""
        return cls(
            model=problem.graph.name,
            source=problem.graph.source,
            graph_hash=graph_hash(problem.graph),
            num_ops=problem.graph.num_ops,
            cluster=problem.cluster.name,
            num_devices=problem.cluster.num_devices,
            num_microbatches=problem.training.num_microbatches,
            samples_per_microbatch=problem.graph.samples_per_microbatch,
            optimizer=problem.training.optimizer,
            objective=problem.objective,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One planner.

    Attributes:
        planner, status, planning_time_s, reason, history, curve, breakdown, plan: as in `PlanResult`.
        iteration_time_s, bottleneck_s: of its plan; None without one.
        speedup_over_data_parallel: ratio of the objective values of data parallelism and of this plan; None if either
            has no plan.
        gap: (objective value - lower bound) / lower bound; None without a plan or with a lower bound of 0 or infinity.
        peak_memory_bytes: per device.
        break_even_steps: training steps after which the plan has saved the seconds that its search took longer than
            that of another planner (`drlpp.planners.break_even`), by that one's name: data parallelism, and the best of
            the others. Empty for data parallelism itself, without a plan, or alone.
    """

    planner: str
    status: Status
    iteration_time_s: float | None
    bottleneck_s: float | None
    planning_time_s: float
    speedup_over_data_parallel: float | None
    gap: float | None
    peak_memory_bytes: tuple[float, ...]
    plan: Plan | None
    reason: str = ""
    history: tuple[tuple[float, float], ...] = ()
    curve: tuple[Mapping[str, float], ...] = ()
    breakdown: Mapping[str, float] = dataclasses.field(default_factory=dict)
    break_even_steps: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    @property
    def fullest_memory(self) -> float | None:
        """Peak memory over capacity of the fullest device; None without a plan."""
        capacity = self.plan.cluster.memory_bytes.tolist() if self.plan else []
        return max((p / c for p, c in zip(self.peak_memory_bytes, capacity, strict=True)), default=None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON-ready form; `plan` is the whole plan, as in a plan file."""
        return {
            "planner": self.planner,
            "status": self.status,
            "iteration_time_s": self.iteration_time_s,
            "bottleneck_s": self.bottleneck_s,
            "planning_time_s": self.planning_time_s,
            "speedup_over_data_parallel": self.speedup_over_data_parallel,
            "gap": self.gap,
            "peak_memory_bytes": list(self.peak_memory_bytes),
            "plan": plan_to_dict(self.plan) if self.plan else None,
            "reason": self.reason,
            "history": [list(point) for point in self.history],
            "curve": [{k: v for k, v in point.items() if math.isfinite(v)} for point in self.curve],
            "breakdown": dict(self.breakdown),
            "break_even_steps": dict(self.break_even_steps),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Planners on the same problem, against a certified lower bound.

    Attributes:
        lower_bound_s: no plan has a smaller objective value; infinite if no plan can fit.
        bound_kind: how the bound was found, for people.
    """

    problem: ProblemSummary
    lower_bound_s: float
    bound_kind: str
    rows: tuple[ComparisonRow, ...]

    @property
    def useful_bound_s(self) -> float | None:
        """The lower bound where it says something: positive and finite."""
        return self.lower_bound_s if 0 < self.lower_bound_s < math.inf else None

    @property
    def best(self) -> ComparisonRow | None:
        """The row with the smallest objective value; the first of equals."""
        solved = [row for row in self.rows if self.value(row) is not None]
        return min(solved, key=lambda row: cast(float, self.value(row)), default=None)

    def value(self, row: ComparisonRow) -> float | None:
        """The objective value of a row in seconds."""
        return self.problem.objective.value_s(row)

    def to_dict(self) -> dict[str, Any]:
        """The JSON-ready form; `comparison_from_dict` is its inverse."""
        return {
            "problem": dataclasses.asdict(self.problem),
            "lower_bound_s": self.lower_bound_s if math.isfinite(self.lower_bound_s) else None,
            "bound_kind": self.bound_kind,
            "rows": [row.to_dict() for row in self.rows],
        }


def comparison_row(
    result: PlanResult, problem: PlanningProblem, lower_bound_s: float, data_parallel_s: float | None = None
) -> ComparisonRow:
    """The row of one result.

    Args:
        data_parallel_s: objective value of data parallelism, where it was planned and fits.

    Raises:
        InputError: the plan has no prediction.
    """
    value = _objective_value(result, problem.objective)
    prediction = result.plan.prediction if result.plan else None
    return ComparisonRow(
        planner=result.planner,
        status=result.status,
        iteration_time_s=prediction.iteration_time_s if prediction else None,
        bottleneck_s=prediction.bottleneck_s if prediction else None,
        planning_time_s=result.planning_time_s,
        speedup_over_data_parallel=data_parallel_s / value if data_parallel_s is not None and value else None,
        gap=gap_to(value, lower_bound_s) if value is not None and 0 < lower_bound_s < math.inf else None,
        peak_memory_bytes=prediction.peak_memory_bytes if prediction else (),
        plan=result.plan,
        reason=result.reason,
        history=result.history,
        curve=result.curve,
        breakdown=dict(result.breakdown),
    )


def compare_results(problem: PlanningProblem, results: Sequence[PlanResult], bound: Bound) -> Comparison:
    """Puts the results of several planners on one problem side by side, in the order given.

    Raises:
        InputError: a planner appears twice, or a plan has no prediction.
    """
    names = [r.planner for r in results]
    if len(set(names)) < len(names):
        raise InputError(f"planners {names} repeat a name: compare each planner once")
    baseline = next((_objective_value(r, problem.objective) for r in results if r.planner == DATA_PARALLEL), None)
    return Comparison(
        problem=ProblemSummary.of(problem),
        lower_bound_s=bound.value_s,
        bound_kind=bound.kind,
        rows=tuple(
            dataclasses.replace(
                comparison_row(r, problem, bound.value_s, baseline), break_even_steps=_repaid(problem, r, results)
            )
            for r in results
        ),
    )


def _repaid(problem: PlanningProblem, result: PlanResult, results: Sequence[PlanResult]) -> dict[str, float | None]:
    """Steps to repay a search, against data parallelism and the best of the others."""
    value = _objective_value(result, problem.objective)
    values = {r.planner: (v, r.planning_time_s) for r in results if (v := _objective_value(r, problem.objective))}
    others = {name: pair for name, pair in values.items() if name != result.planner}
    if value is None or not others or result.planner == DATA_PARALLEL:
        return {}
    best = min(others, key=lambda name: others[name])
    found: dict[str, float | None] = {}
    for name in dict.fromkeys([DATA_PARALLEL, best]):
        if name in others:
            other, seconds = others[name]
            found |= break_even(problem, result.planning_time_s - seconds, value, {name: other})
    return found


def _objective_value(result: PlanResult, objective: Objective) -> float | None:
    if result.plan is None:
        return None
    if result.plan.prediction is None:
        raise InputError(f"the plan of {result.planner!r} has no prediction: simulate it before comparing")
    return objective.value_s(result.plan.prediction)


def comparison_from_dict(data: Mapping[str, Any], where: str = "comparison") -> Comparison:
    """Reads the form that `Comparison.to_dict` makes.

    Raises:
        InputError: keys are missing or unknown, or a status or a plan is not valid.
    """
    try:
        rows = [_row_from_dict(row, f"{where}: row {i}") for i, row in enumerate(data["rows"])]
        stated = data["problem"]
        problem = ProblemSummary(**{**stated, "objective": Objective(stated["objective"])})
        bound = math.inf if data["lower_bound_s"] is None else data["lower_bound_s"]
        return Comparison(problem=problem, lower_bound_s=bound, bound_kind=data["bound_kind"], rows=tuple(rows))
    except KeyError as error:
        raise InputError(f"{where}: key {error.args[0]!r} is missing: `drlpp compare --json` writes it") from error
    except TypeError as error:
        raise InputError(f"{where}: not the form that `drlpp compare --json` writes: {error}") from error


def _row_from_dict(data: Mapping[str, Any], where: str) -> ComparisonRow:
    if data["status"] not in get_args(Status):
        raise InputError(f"{where}: status is {data['status']!r}: it must be one of {', '.join(get_args(Status))}")
    return ComparisonRow(
        **{
            **data,
            "peak_memory_bytes": tuple(data["peak_memory_bytes"]),
            "plan": plan_from_dict(data["plan"], f"{where}: plan") if data["plan"] else None,
            "history": tuple((float(t), float(v)) for t, v in data["history"]),
            "curve": tuple(data["curve"]),
        }
    )


def load_comparison(path: Path) -> Comparison:
    """Reads what `drlpp compare --json` wrote. Raises InputError with file, place and rule in one line."""
    try:
        data = json.loads(read_text(path, "comparison file"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON: {error.msg}") from error
    return comparison_from_dict(data, str(path))
