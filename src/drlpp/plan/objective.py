"""What a planner minimises, and the value of a prediction under it. This is the only place that knows both times."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, TypeVar

from drlpp.errors import InputError

T = TypeVar("T", covariant=True)


class TwoTimes(Protocol[T]):
    """A prediction of one plan, or the predictions of many as arrays."""

    @property
    def iteration_time_s(self) -> T: ...
    @property
    def bottleneck_s(self) -> T: ...


class Objective(StrEnum):
    """Seconds of one synchronous step, or the load per micro-batch of the most loaded device.

    The second is what PipeDream and asynchronous pipelines minimise; for serving, where a micro-batch is a token of
    each sequence. ``Objective(text)`` raises InputError where there is no such objective.
    """

    ITERATION_TIME = "iteration-time"
    STEADY_STATE = "steady-state"
    SERVING = "serving"

    @classmethod
    def _missing_(cls, value: object) -> Objective:
        raise InputError(f"objective {value!r} is not known: use one of {', '.join(cls)}")

    @property
    def of_one_microbatch(self) -> bool:
        """The value is that of one micro-batch, not of a whole step."""
        return self is not Objective.ITERATION_TIME

    @property
    def label(self) -> str:
        """What the value is, for people."""
        if self is Objective.SERVING:
            return "bottleneck per token of every sequence"
        return "bottleneck per micro-batch" if self.of_one_microbatch else "iteration time"

    def value_s(self, times: TwoTimes[T]) -> T:
        """The value that is minimised, in seconds."""
        return times.bottleneck_s if self.of_one_microbatch else times.iteration_time_s

    def microbatches(self, num_microbatches: int) -> int:
        """How many micro-batches the value is for, where a step has `num_microbatches`."""
        return 1 if self.of_one_microbatch else num_microbatches
