"""Values of plans from real runs: the reward that needs no profile.

Every distinct plan is measured once (`drlpp.runtime.launch.plan_measurement`) and kept in a file, so a run that is
resumed measures nothing twice. A plan that fails is worth `PENALTY` times the slowest that ran. Plans that the memory
model refuses are not started: a rank that runs out of memory can take a machine with it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drlpp._version import __version__
from drlpp.errors import ExecutionError, InputError
from drlpp.files import read_text
from drlpp.plan import Objective, Plan, Provenance
from drlpp.plan.assignment import Assignment
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator

PENALTY = 3.0

Measure = Callable[[Plan], float]
"""Seconds of a step of a plan; raises ExecutionError where it fails.

`drlpp.runtime.launch.plan_measurement.Trials.measure` is one."""


class MeasuredValue:
    """A `drlpp.agent.sampling.rollout.Value` that runs plans.

    Args:
        problem: its objective is the iteration time. The schedule of a plan is the one that the simulator prefers.
        measure: runs a plan.
        path: JSON lines, one per measured plan; what is in it already is not measured again. None for no file.

    Raises:
        InputError: the objective is another, or the file is not one of these.
    """

    def __init__(self, problem: PlanningProblem, measure: Measure, path: Path | None = None) -> None:
        if problem.objective is not Objective.ITERATION_TIME:
            raise InputError(f"objective {problem.objective.value!r} cannot be measured: use iteration-time")
        self.problem = problem
        self._measure = measure
        self._path = path
        self._evaluator = Evaluator(problem)
        self._rows = {row["plan"]: row for row in _read(path)} if path is not None and path.exists() else {}

    @property
    def num_failed(self) -> int:
        """Plans that did not run."""
        return sum(row["seconds"] is None for row in self._rows.values())

    @property
    def num_measured(self) -> int:
        """Plans that ran."""
        return len(self._rows) - self.num_failed

    @property
    def best_s(self) -> float:
        """The fastest step that was measured; infinite if none was."""
        return min((row["seconds"] for row in self._rows.values() if row["seconds"] is not None), default=math.inf)

    def knows(self, assignment: Assignment) -> bool:
        """Whether the plan was measured, or failed."""
        return _key(assignment) in self._rows

    def fits(self, assignment: Assignment) -> bool:
        """Whether the plan fits the memory."""
        return self._evaluator.evaluate(assignment).feasible

    def __call__(self, assignment: Assignment) -> float:
        """Seconds of a step, measured; more than any other plan's where it fails or does not fit."""
        expected = self._evaluator.evaluate(assignment)
        if not expected.feasible:
            return expected.score(self.problem.objective)
        key = _key(assignment)
        if key not in self._rows:
            self._keep(self._run(assignment, key))
        seconds = self._rows[key]["seconds"]
        if seconds is not None:
            return float(seconds)
        slowest = max((row["seconds"] for row in self._rows.values() if row["seconds"] is not None), default=0.0)
        return PENALTY * max(slowest, expected.iteration_time_s)

    def plan(self, assignment: Assignment) -> Plan:
        """The plan that is measured for an assignment."""
        return self._evaluator.make_plan(assignment, Provenance(planner="drl", version=__version__))

    def _run(self, assignment: Assignment, key: str) -> dict[str, Any]:
        plan = self.plan(assignment)
        predicted = plan.prediction.iteration_time_s if plan.prediction else None
        row: dict[str, Any] = {"plan": key, "seconds": None, "predicted_s": predicted, "reason": ""}
        try:
            row["seconds"] = self._measure(plan)
        except ExecutionError as error:
            row["reason"] = str(error)
        return row

    def _keep(self, row: dict[str, Any]) -> None:
        self._rows[row["plan"]] = row
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def _key(assignment: Assignment) -> str:
    return hashlib.sha256(repr(assignment.key).encode()).hexdigest()[:16]


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of measurements; a last line that was cut off does not count."""
    rows = []
    for number, line in enumerate(read_text(path, "measurements").split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
            rows.append({name: row[name] for name in ("plan", "seconds", "predicted_s", "reason")})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} line {number} is not a measurement of a plan: remove it, or use another folder"
            ) from error
    return rows
