"""The evaluator that planners and the agent call: an assignment in, its time and memory out."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.problem_arrays import PackedAssignments, pack, problem_arrays
from drlpp.errors import InputError, ScheduleError
from drlpp.graph.csr import offsets
from drlpp.graph.stages import check_partition
from drlpp.native import library
from drlpp.plan import Assignment, Objective, Plan, Prediction, Provenance, stages_of
from drlpp.problem import PlanningProblem
from drlpp.schedules import SCHEDULES, FlatSchedule, to_schedule
from drlpp.schedules.registry import schedule_flags

_INFEASIBLE_FACTOR, _EXCESS_FACTOR = 10.0, 100.0
"""Score of an infeasible assignment: value x (10 + 100 x excess / memory in use)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """What an assignment is worth.

    Attributes:
        iteration_time_s: seconds of one step under the best schedule.
        bottleneck_s: largest load of a device per micro-batch.
        peak_memory_bytes: ``[D]``; 0 for a device without a stage.
        over_memory_bytes: the worst excess over a device's memory; 0 if it fits.
        schedule_name: the best schedule.
    """

    iteration_time_s: float
    bottleneck_s: float
    peak_memory_bytes: NDArray[np.float64]
    over_memory_bytes: float
    schedule_name: str

    @property
    def feasible(self) -> bool:
        return self.over_memory_bytes <= 0

    def score(self, objective: Objective) -> float:
        """The value that a search minimises: the objective, and many times that if the memory does not suffice.

        An infeasible assignment scores at least ten times its objective, and more the more memory it lacks, so that a
        search that starts there finds its way out.
        """
        value = objective.value_s(self)
        if self.feasible:
            return value
        return value * (
            _INFEASIBLE_FACTOR + _EXCESS_FACTOR * self.over_memory_bytes / float(self.peak_memory_bytes.max())
        )


class Evaluations(Sequence[Evaluation]):
    """Evaluations of a batch, as arrays and one by one.

    Attributes:
        iteration_time_s, bottleneck_s, over_memory_bytes, schedule: ``[B]``; the last is an index into `SCHEDULES`.
        peak_memory_bytes, compute_s: ``[B, D]``; the last is the seconds of a step that a device computes.
    """

    def __init__(
        self,
        schedule: NDArray[np.int64],
        iteration_time_s: NDArray[np.float64],
        bottleneck_s: NDArray[np.float64],
        over_memory_bytes: NDArray[np.float64],
        peak_memory_bytes: NDArray[np.float64],
        compute_s: NDArray[np.float64],
    ) -> None:
        self.schedule = schedule
        self.iteration_time_s = iteration_time_s
        self.bottleneck_s = bottleneck_s
        self.over_memory_bytes = over_memory_bytes
        self.peak_memory_bytes = peak_memory_bytes
        self.compute_s = compute_s

    def __len__(self) -> int:
        return len(self.schedule)

    @overload
    def __getitem__(self, index: int) -> Evaluation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Evaluation]: ...
    def __getitem__(self, index: int | slice) -> Evaluation | list[Evaluation]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Evaluation(
            iteration_time_s=float(self.iteration_time_s[index]),
            bottleneck_s=float(self.bottleneck_s[index]),
            peak_memory_bytes=self.peak_memory_bytes[index],
            over_memory_bytes=float(self.over_memory_bytes[index]),
            schedule_name=_NAMES[self.schedule[index]],
        )

    def scores(self, objective: Objective) -> NDArray[np.float64]:
        """``[B]`` `Evaluation.score` of each."""
        value = objective.value_s(self)
        over = self.over_memory_bytes
        factor = _INFEASIBLE_FACTOR + _EXCESS_FACTOR * over / np.maximum(self.peak_memory_bytes.max(axis=1), 1e-300)
        scores: NDArray[np.float64] = np.where(over > 0, value * factor, value)
        return scores


class Evaluator:
    """Evaluates assignments of one problem.

    Args:
        problem: what is planned.
        num_threads: how many threads evaluate a batch.
    """

    def __init__(self, problem: PlanningProblem, num_threads: int = 1) -> None:
        self.problem = problem
        self._num_threads = num_threads

    def evaluate(
        self, assignment: Assignment, schedules: Sequence[str] | None = None, give_up_s: float = math.inf
    ) -> Evaluation:
        """Evaluates an assignment under the best of some schedules.

        The best is the fastest of those that fit the memory, else the one that exceeds it least.

        Args:
            schedules: names to try; None tries all that apply.
            give_up_s: if the assignment takes longer than this under the first schedule that applies (1F1B, if that is
                among them), and fits, no other is tried.

        Raises:
            PlanError: the partition is not legal.
            InputError: no name is given.
            ScheduleError: a name is not known, none applies, or a device does not exist.
        """
        return self.evaluate_many((assignment,), schedules, give_up_s)[0]

    def evaluate_many(
        self, assignments: Sequence[Assignment], schedules: Sequence[str] | None = None, give_up_s: float = math.inf
    ) -> Evaluations:
        """`evaluate` of many assignments at once, which is faster."""
        wanted, packed = _flags(schedules), pack(self.problem, assignments)
        return self._checked(Evaluations(**self._compiled.evaluate(packed, wanted, give_up_s)), packed, wanted)

    def bottleneck_s(self, assignment: Assignment) -> float:
        """The largest load of a device per micro-batch. Raises PlanError if the partition is not legal."""
        return float(self.loads_s(assignment).max())

    def loads_s(self, assignment: Assignment) -> NDArray[np.float64]:
        """``[D]`` load per micro-batch of each device. Raises PlanError if the partition is not legal."""
        packed = pack(self.problem, (assignment,))
        try:
            return self._compiled.loads(packed)
        except ValueError:
            check_partition(self.problem.graph, packed.labels[0], assignment.num_stages)
            raise

    def make_plan(self, assignment: Assignment, provenance: Provenance, schedules: Sequence[str] | None = None) -> Plan:
        """The plan of an assignment with its best schedule and the prediction. Raises as `evaluate` does."""
        problem = self.problem
        wanted, packed = _flags(schedules), pack(problem, (assignment,))
        fields, order = self._compiled.evaluate_with_order(packed, wanted)
        evaluations = self._checked(Evaluations(**fields), packed, wanted)
        evaluation, time = evaluations[0], float(evaluations.iteration_time_s[0])
        used = np.unique([d for group in assignment.devices for d in group])
        samples = problem.graph.samples_per_microbatch * problem.training.num_microbatches
        bubbles = 1.0 - evaluations.compute_s[0] / time if time else np.zeros(problem.cluster.num_devices)
        return Plan(
            graph=problem.graph,
            cluster=problem.cluster,
            training=problem.training,
            stages=stages_of(problem.graph, assignment),
            schedule=to_schedule(FlatSchedule(**order), used),
            schedule_name=evaluation.schedule_name,
            provenance=provenance,
            prediction=Prediction(
                iteration_time_s=time,
                bottleneck_s=evaluation.bottleneck_s,
                throughput_samples_per_s=samples / time if time else float("inf"),
                peak_memory_bytes=tuple(evaluation.peak_memory_bytes.tolist()),
                bubble_fraction=tuple(bubbles.tolist()),
            ),
        )

    @functools.cached_property
    def _compiled(self) -> library.BatchEvaluator:
        return library.BatchEvaluator(problem_arrays(self.problem), self._num_threads)

    def _checked(self, evaluations: Evaluations, packed: PackedAssignments, wanted: NDArray[np.bool_]) -> Evaluations:
        """The evaluations, if every partition is legal and some schedule applies to each."""
        for b in np.flatnonzero(evaluations.schedule < 0).tolist():
            check_partition(self.problem.graph, packed.labels[b], int(np.diff(packed.stage_off)[b]))
            names = ", ".join(name for name, flag in zip(SCHEDULES, wanted, strict=True) if flag)
            raise ScheduleError(f"none of the schedules {names} applies to this placement: add 1f1b")
        if (self.problem.cluster.members > 1).any():
            unlike = self._unlike(packed)
            evaluations.over_memory_bytes[unlike] += evaluations.peak_memory_bytes[unlike].max(axis=1)
        return evaluations

    def _unlike(self, packed: PackedAssignments) -> NDArray[np.int64]:
        """Assignments whose replicas of a stage are groups that hold other parts of it: nothing can sum these."""
        cluster, first = self.problem.cluster, offsets(packed.replicas)[:-1]
        kinds, members = cluster.type_index[packed.devices], cluster.members[packed.devices]
        unequal = np.minimum.reduceat(kinds, first) != np.maximum.reduceat(kinds, first)
        stages = np.flatnonzero(unequal & (np.maximum.reduceat(members, first) > 1))
        return np.unique(np.searchsorted(packed.stage_off, stages, side="right") - 1)


def _flags(schedules: Sequence[str] | None) -> NDArray[np.bool_]:
    wanted = schedule_flags(schedules)
    if not wanted.any():
        raise InputError("no schedule is given: name at least one, or None for all that apply")
    return wanted


_NAMES = tuple(SCHEDULES)
