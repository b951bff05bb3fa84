"""Sees that a device or a link has become slower or faster for good, and does not see jitter.

Each unit (a device, or the links between two hosts) has two cumulative sums of logarithms of measured over expected
seconds, one upwards and one downwards (Page, Biometrika 1954): ``S = max(0, S + z - slack)``, and an alarm where S
exceeds a threshold. The slack is the change that is not worth a new plan. One step counts no more than `most`, so a
single hiccup, however long, raises no alarm: a change has to last for three steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Sensitivity:
    """When a change is one.

    Attributes:
        slack: part of the logarithm that is put down to chance.
        most: a step counts at most this much.
        threshold: of the sum.
    """

    slack: float
    most: float
    threshold: float


DEVICES = Sensitivity(slack=0.1, most=0.5, threshold=1.0)
LINKS = Sensitivity(slack=0.25, most=0.7, threshold=1.2)


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A unit that takes other seconds than before.

    Attributes:
        unit: what changed.
        since: the first step of the change.
        factor: of its seconds, as the last step has it.
    """

    unit: Hashable
    since: int
    factor: float


class _Sum:
    """A cumulative sum in one direction, and the steps that it is made of."""

    def __init__(self, how: Sensitivity) -> None:
        self._how = how
        self.total = 0.0
        self._steps: list[tuple[int, float]] = []

    def add(self, step: int, z: float) -> None:
        z = min(self._how.most, z)
        self.total = max(0.0, self.total + z - self._how.slack)
        self._steps = [*self._steps, (step, z)] if self.total else []

    @property
    def since(self) -> int:
        """The first step of the change: from it on no step is nearer to no change than to the largest one."""
        half = max(z for _, z in self._steps) / 2
        low = [i for i, (_, z) in enumerate(self._steps) if z < half]
        return self._steps[low[-1] + 1 if low and low[-1] + 1 < len(self._steps) else 0][0]


class ChangeDetector:
    """Cumulative sums of some units."""

    def __init__(self, sensitivity: Sensitivity) -> None:
        self._how = sensitivity
        self._sums: dict[Hashable, tuple[_Sum, _Sum]] = {}

    def forget(self) -> None:
        """Begins anew: what is expected has changed."""
        self._sums.clear()

    def look(self, step: int, ratio: Mapping[Hashable, float]) -> list[Change]:
        """Takes a step; returns the units that changed for good.

        Args:
            step: its number, ascending.
            ratio: unit -> measured over expected seconds.
        """
        changes = []
        for unit, factor in ratio.items():
            up, down = self._sums.setdefault(unit, (_Sum(self._how), _Sum(self._how)))
            up.add(step, math.log(factor))
            down.add(step, -math.log(factor))
            larger = up if up.total > down.total else down
            if larger.total > self._how.threshold:
                changes.append(Change(unit, larger.since, factor))
        return changes
