"""A lasting change raises an alarm within a few steps; jitter and hiccups do not."""

from __future__ import annotations

import numpy as np
import pytest

from drlpp.runtime.adapt.watch import DEVICES, LINKS, ChangeDetector, Sensitivity


@pytest.mark.parametrize("how", [DEVICES, LINKS])
def test_twice_as_slow_is_seen_after_three_steps(how: Sensitivity) -> None:
    watch = ChangeDetector(how)
    for step in range(1, 50):
        assert watch.look(step, {0: 1.02, 1: 0.98}) == []
    found = [watch.look(step, {0: 1.0, 1: 2.0}) for step in range(50, 60)]
    first = next(i for i, changes in enumerate(found) if changes)
    assert first == 2
    assert [(c.unit, c.since, c.factor) for c in found[first]] == [(1, 50, 2.0)]


def test_recovery_is_seen_too() -> None:
    watch = ChangeDetector(DEVICES)
    found = [watch.look(step, {3: 0.5}) for step in range(4)]
    assert [bool(changes) for changes in found] == [False, False, True, True]
    watch.forget()
    assert watch.look(9, {3: 0.5}) == []


def test_a_slow_drift_of_a_third_is_seen() -> None:
    watch = ChangeDetector(DEVICES)
    assert any(watch.look(step, {0: 1.35}) for step in range(8))


def test_jitter_is_not_seen() -> None:
    """20 %, the same for all actions of a step: the worst case."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        watch = ChangeDetector(DEVICES)
        steps = ({d: float(rng.uniform(0.8, 1.2)) for d in range(8)} for _ in range(400))
        assert not any(watch.look(step, ratios) for step, ratios in enumerate(steps))


def test_a_hiccup_is_not_seen() -> None:
    watch = ChangeDetector(DEVICES)
    assert not any(watch.look(step, {0: 50.0 if step % 10 in (0, 1) else 1.0}) for step in range(100))


def test_jitter_before_a_change_is_no_part_of_it() -> None:
    watch = ChangeDetector(DEVICES)
    for step, ratio in enumerate([1.0, 1.15, 1.12, 1.14, 2.0, 1.9]):
        assert watch.look(step, {0: ratio}) == []
    assert [c.since for c in watch.look(6, {0: 2.1})] == [4]
