"""Robust Bayesian least squares: parameters with normal priors, measurements with Student's t errors.

The parameters are found by Gauss-Newton steps on the negative logarithm of the posterior. Student's t errors come from
weights that are found anew in each step (Lange, Little & Taylor, JASA 1989): a measurement that lies far off counts
little. The covariance is that of the normal distribution that fits the posterior at its top (Laplace).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FREEDOM = 4.0
"""Degrees of freedom of Student's t: far measurements are expected now and then."""
_STEPS = 30
_STILL = 1e-6
_DIFFERENCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Posterior:
    """What is known of P parameters.

    Attributes:
        mean: ``[P]``.
        covariance: ``[P, P]``.
        residual: ``[n]`` measured less predicted, in standard deviations of the measurement.
    """

    mean: Floats
    covariance: Floats
    residual: Floats

    def deviation(self, direction: Floats) -> float:
        """Standard deviation of a sum of parameters with weights ``[P]``."""
        return float(np.sqrt(direction @ self.covariance @ direction))

    def given(self, sums: Floats) -> Posterior:
        """What is known if it is known besides that sums of parameters with weights ``[k, P]`` are 0."""
        if not len(sums):
            return self
        spread = sums @ self.covariance
        gain = np.linalg.solve(spread @ sums.T, spread).T  # [P, k]
        return Posterior(self.mean - gain @ (sums @ self.mean), self.covariance - gain @ spread, self.residual)


def fit(predict: Callable[[Floats], Floats], measured: Floats, deviation: Floats, prior_deviation: Floats) -> Posterior:
    """Finds parameters under which a model predicts what was measured.

    Args:
        predict: ``[P]`` parameters -> ``[n]`` predictions; smooth, and right for parameters of 0 if the prior is.
        measured, deviation: ``[n]`` measurements with their standard deviations.
        prior_deviation: ``[P]`` of the parameters around 0.
    """
    parameters = np.zeros(len(prior_deviation))
    precision = np.diag(prior_deviation**-2.0)
    jacobian = np.zeros((len(measured), len(parameters)))
    weight = np.ones(len(measured))
    for _ in range(_STEPS):
        residual = (measured - predict(parameters)) / deviation
        jacobian = _jacobian(predict, parameters) / deviation[:, None]
        weight = (FREEDOM + 1.0) / (FREEDOM + residual**2)
        curvature = precision + jacobian.T @ (weight[:, None] * jacobian)
        step = np.linalg.solve(curvature, jacobian.T @ (weight * residual) - precision @ parameters)
        parameters = parameters + np.clip(step, -1.0, 1.0)  # a factor of e at a time, where they are logarithms
        if np.abs(step).max(initial=0.0) < _STILL:
            break
    curvature = precision + jacobian.T @ (weight[:, None] * jacobian)
    covariance: Floats = np.linalg.inv(curvature).astype(np.float64)
    return Posterior(parameters, covariance, (measured - predict(parameters)) / deviation)


def _jacobian(predict: Callable[[Floats], Floats], at: Floats) -> Floats:
    """``[n, P]`` by central differences."""
    columns = []
    for p in range(len(at)):
        step = np.zeros(len(at))
        step[p] = _DIFFERENCE
        columns.append((predict(at + step) - predict(at - step)) / (2 * _DIFFERENCE))
    return np.stack(columns, axis=1) if columns else np.zeros((len(predict(at)), 0))
