"""Rewards: what the simulator, or whatever measures plans, says of the policy's episodes.

The reward is ``-log(value / reference)``: scale-free, 0 for the ideal split of the work over all devices without any
communication, and graded for plans that exceed the memory (their value is multiplied by the excess).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drlpp.agent.networks.policy import Rollout
from drlpp.plan.assignment import Assignment

Value = Callable[[Assignment], float]
"""Seconds of an assignment, larger by a factor if it is infeasible; what is to be minimised."""


class Rewarder:
    """Turns episodes on one problem into rewards; asks for the value of each distinct assignment once.

    Args:
        value: for example ``lambda a: Evaluator(problem).evaluate(a).score(objective)``.
        reference_s: seconds that count as reward 0.
    """

    def __init__(self, value: Value, reference_s: float) -> None:
        self._value = value
        self._reference_s = reference_s
        self._seen: dict[Hashable, float] = {}
        self.best: tuple[float, Assignment] | None = None
        self.num_evaluations = 0

    def values(self, rollout: Rollout) -> NDArray[np.float64]:
        """``[B]`` seconds of the episodes."""
        return np.array([self.value_of(a) for a in rollout.assignments()])

    def value_of(self, assignment: Assignment) -> float:
        """Seconds of one assignment; the best one so far is kept."""
        key = assignment.key
        if key not in self._seen:
            self.num_evaluations += 1
            value = self._value(assignment)
            self._seen[key] = value
            if self.best is None or value < self.best[0]:
                self.best = (value, assignment)
        return self._seen[key]

    def rewards(self, values: NDArray[np.float64]) -> Tensor:
        """``[B]`` rewards of values in seconds."""
        return torch.from_numpy(-np.log(np.maximum(values, 1e-30) / self._reference_s)).float()
