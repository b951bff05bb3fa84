"""What `drlpp run --json` wrote, as the page needs it: seconds of each step, and the decisions of a run that adapts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drlpp.errors import InputError
from drlpp.files import read_text
from drlpp.parsing import first_problem
from drlpp.units import format_time

MARKED = ("change", "switched", "refused", "failed")
"""Kinds of decisions that the chart marks: what happened, not what was thought of."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class DecisionRecord(_Part):
    """A decision (`drlpp.runtime.adapt.decisions`)."""

    step: int = Field(ge=0)
    kind: str
    text: str


class PredictionRecord(_Part):
    """What a step was to take, from a step on (counted from 0)."""

    from_step: int = Field(ge=0)
    iteration_time_s: float | None


class RunRecord(_Part):
    """A run: `step_times_s` of the steps from `first_step` on."""

    step_times_s: list[float] = Field(min_length=1)
    first_step: int = Field(default=0, ge=0)
    predictions: list[PredictionRecord] = []
    decisions: list[DecisionRecord] = []


def load_run(path: Path) -> RunRecord:
    """Reads what `drlpp run --json` wrote.

    Raises:
        InputError: the file is not of the form.
    """
    try:
        return RunRecord.model_validate(json.loads(read_text(path, "record of a run")))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON: {error.msg}") from error
    except ValidationError as error:
        problem = first_problem(error, sorted(RunRecord.model_fields))
        raise InputError(f"{path}: {problem}: give what `drlpp run --json` printed") from error


def run_chart(run: RunRecord) -> dict[str, Any]:
    """Seconds of each step over the steps, as measured and as predicted, with a mark for each decision."""
    first, count = run.first_step + 1, len(run.step_times_s)
    last = first + count - 1
    measured = [(float(first + i), float(f"{s:.6g}")) for i, s in enumerate(run.step_times_s)]
    series: list[dict[str, Any]] = [{"name": "measured", "points": measured}]
    known = [(max(first, p.from_step + 1), p.iteration_time_s) for p in run.predictions if p.iteration_time_s]
    if known:
        points = [(float(step), float(f"{s:.6g}")) for step, s in known]
        series.append({"name": "predicted", "points": [*points, (float(last), points[-1][1])]})
    ordered = sorted(run.step_times_s)
    return {
        "series": series,
        "step": True,
        "label": "seconds of each step of the run",
        "x": {"label": "step", "short": "step", "unit": "", "log": False},
        "y": {"unit": "s"},
        "bound": None,
        "marks": [{"x": d.step + 0.5, "kind": d.kind, "text": d.text} for d in run.decisions if d.kind in MARKED],
        "remark": f"median {format_time(ordered[count // 2])}",
    }
