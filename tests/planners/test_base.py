"""Budgets on a clock that the test turns."""

import math

import pytest

from drlpp.planners.base import Budget, gap_to


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_budget_is_spent_when_its_time_is_up():
    clock = Clock()
    budget = Budget(10.0, clock)
    clock.now += 4
    assert (budget.elapsed_s, budget.left_s, budget.spent) == (4, 6, False)
    clock.now += 6
    assert budget.spent


def test_a_part_ends_with_the_whole():
    clock = Clock()
    budget = Budget(10.0, clock)
    clock.now += 2
    part = budget.part(0.5)
    assert part.seconds == pytest.approx(4)
    budget.cancel()
    assert budget.left_s == 0
    assert part.spent
    assert budget.part(0.5).seconds == 0


def test_the_gap_is_relative_to_the_bound():
    assert gap_to(1.1, 1.0) == pytest.approx(0.1)
    assert gap_to(1.0, 0.0) == math.inf
