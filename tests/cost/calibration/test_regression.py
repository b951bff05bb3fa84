"""Least squares with priors: the closed form, outliers, and what no measurement speaks of."""

from __future__ import annotations

import numpy as np
import pytest

from drlpp.cost.calibration.regression import fit


def test_a_line_has_the_closed_form() -> None:
    """Errors so small that Student's t is normal: ridge regression."""
    rng = np.random.default_rng(0)
    design, true = rng.normal(size=(200, 3)), np.array([1.0, -0.5, 0.2])
    deviation, prior = np.full(200, 0.3), np.array([1.0, 0.5, 2.0])
    measured = design @ true + 1e-3 * rng.normal(size=200)
    found = fit(lambda p: design @ p, measured, deviation, prior)
    weight = 5 / 4 / 0.3**2  # of residuals near 0
    curvature = weight * design.T @ design + np.diag(prior**-2)
    assert found.mean == pytest.approx(np.linalg.solve(curvature, weight * design.T @ measured), abs=1e-4)
    assert found.covariance == pytest.approx(np.linalg.inv(curvature), rel=1e-3)


def test_the_deviation_says_how_far_off_the_mean_is() -> None:
    rng = np.random.default_rng(1)
    off = []
    for _ in range(200):
        true = rng.normal()
        measured = true + 0.1 * rng.standard_t(4, size=20)
        found = fit(lambda p: np.full(20, p[0]), measured, np.full(20, 0.1), np.ones(1))
        off.append((found.mean[0] - true) / found.deviation(np.ones(1)))
    assert 0.8 < float(np.std(off)) < 1.3


def test_outliers_count_little() -> None:
    measured = np.full(20, 0.5)
    measured[:3] = 5.0
    found = fit(lambda p: np.full(20, p[0]), measured, np.full(20, 0.05), np.ones(1))
    assert found.mean[0] == pytest.approx(0.5, abs=0.01)


def test_what_is_not_measured_stays_with_the_prior() -> None:
    found = fit(lambda p: np.exp(p[:1]), np.array([2.0]), np.array([0.01]), np.array([1.0, 0.7]))
    assert found.mean == pytest.approx([np.log(2.0), 0.0], abs=1e-3)
    assert found.deviation(np.array([0.0, 1.0])) == pytest.approx(0.7)


def test_what_is_known_besides_moves_what_is_less_sure() -> None:
    """Two unequal means of one thing: the common one is nearer to the one that was measured better."""
    design = np.eye(2)
    found = fit(lambda p: design @ p, np.array([0.3, 0.5]), np.array([0.01, 0.03]), np.full(2, 100.0))
    one = found.given(np.array([[1.0, -1.0]]))
    weights = np.array([0.01, 0.03]) ** -2.0
    assert one.mean == pytest.approx(np.full(2, weights @ [0.3, 0.5] / weights.sum()), abs=1e-4)
    assert one.deviation(np.array([1.0, -1.0])) == pytest.approx(0.0, abs=1e-8)
    assert one.deviation(np.array([1.0, 0.0])) < found.deviation(np.array([1.0, 0.0]))
    assert found.given(np.zeros((0, 2))) is found
