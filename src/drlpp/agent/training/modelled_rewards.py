"""Values of plans from real runs where that is worth it, else from the simulator, calibrated from what ran.

What every measured plan's trace says of costs goes into one calibration (`drlpp.cost.calibration`). Its simulator
predicts the next plan, and how far it was off before tells how sure that is. A plan is run where the expected
improvement over the best measured one (Jones, Schonlau and Welch, J. Global Optimization 1998) is worth a run: with
best b, prediction m and deviation s of the logarithm, it is ``b cdf(d) - m exp(s^2 / 2) cdf(d - s)``, where
``d = log(b / m) / s``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

from drlpp.agent.training.measured_rewards import MeasuredValue
from drlpp.cost.calibration import Measurements, calibrate, measurements
from drlpp.cost.calibration.calibrated import calibrated_costs
from drlpp.plan import Plan, Trace
from drlpp.plan.assignment import Assignment
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator

FIRST = 3
"""Plans that are measured before the model counts."""
WORTH = 0.002
"""A plan is measured where the expected improvement is this part of the best step."""
KEPT = 12
"""Measured plans that costs are calibrated from: the last ones."""
LEARNED = 8
"""Predictions that the deviation is estimated from: the last ones."""
_UNSURE, _SUREST = 0.15, 0.01
"""The deviation before anything is known, and the least."""

Run = Callable[[Plan], tuple[float, Trace]]
"""Seconds of a step of a plan, and its trace; raises ExecutionError where it fails.

`drlpp.runtime.launch.plan_measurement.Trials.trace` is one."""


class ModelledValue(MeasuredValue):
    """A `drlpp.agent.sampling.rollout.Value` that runs plans which may be better than all before.

    Args:
        problem, path: see `MeasuredValue`.
        run: runs a plan.
    """

    def __init__(self, problem: PlanningProblem, run: Run, path: Path | None = None) -> None:
        super().__init__(problem, self._take, path)
        self._run_plan = run
        self._measurements: list[Measurements] = []
        self._model: Evaluator | None = None
        self._errors: list[float] = []  # logarithms of measured over predicted seconds

    def __call__(self, assignment: Assignment) -> float:
        """Seconds of a step, measured or predicted; a prediction is never below the best measured step."""
        if self.knows(assignment) or not self.fits(assignment):
            return super().__call__(assignment)
        if len(self._measurements) < FIRST:
            return super().__call__(assignment)
        predicted_s = self._predicted_s(assignment)
        if expected_improvement(self.best_s, predicted_s, self._deviation()) < WORTH * self.best_s:
            return max(predicted_s, self.best_s)
        before, bias = self.num_measured, self._bias()
        value = super().__call__(assignment)
        if self.num_measured > before:
            self._errors.append(math.log(value / predicted_s) + bias)
        return value

    def _take(self, plan: Plan) -> float:
        seconds, trace = self._run_plan(plan)
        self._measurements = [*self._measurements, measurements(plan, [trace])][-KEPT:]
        self._model = None
        return seconds

    def _predicted_s(self, assignment: Assignment) -> float:
        if self._model is None:
            cluster, graph = calibrated_costs(calibrate(self._measurements))
            self._model = Evaluator(dataclasses.replace(self.problem, graph=graph, cluster=cluster))
        return self._model.evaluate(assignment).iteration_time_s * math.exp(self._bias())

    def _bias(self) -> float:
        """What steps take more than the simulator says, in logarithms."""
        last = self._errors[-LEARNED:]
        return sum(last) / len(last) if last else 0.0

    def _deviation(self) -> float:
        last, bias = self._errors[-LEARNED:], self._bias()
        if len(last) < 2:
            return _UNSURE
        return max(_SUREST, math.sqrt(sum((e - bias) ** 2 for e in last) / (len(last) - 1)))


def expected_improvement(best_s: float, predicted_s: float, deviation: float) -> float:
    """Seconds by which a plan is expected to be faster than the best one, where slower counts as no gain.

    Args:
        predicted_s: the median of what it takes.
        deviation: of the logarithm.
    """
    normal, d = NormalDist(), math.log(best_s / predicted_s) / deviation
    return best_s * normal.cdf(d) - predicted_s * math.exp(deviation**2 / 2) * normal.cdf(d - deviation)
