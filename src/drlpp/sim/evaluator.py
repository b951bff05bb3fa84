"""The evaluator that planners and the agent call: an assignment in, its time and memory out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import InputError
from drlpp.plan import Assignment, Plan, Prediction, Provenance, Stage
from drlpp.problem import Objective, PlanningProblem
from drlpp.schedules import SCHEDULES, FlatSchedule, PlacedStages, generate, schedules_for, to_schedule
from drlpp.sim.bottleneck import device_loads
from drlpp.sim.placing import ProblemArrays, place_assignment, problem_arrays
from drlpp.sim.replay import replay

SPLIT_BACKWARD_COST = 0.15
"""A schedule with split backward passes has to save this part of the iteration to be chosen over one without: the
weight half is one call of autograd per layer, which the simulator leaves out. On two CPU processes it made I + W take
1.2 to 1.4 times B (`docs/log.md`)."""
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
        value = self.iteration_time_s if objective == "iteration-time" else self.bottleneck_s
        if self.feasible:
            return value
        return value * (
            _INFEASIBLE_FACTOR + _EXCESS_FACTOR * self.over_memory_bytes / float(self.peak_memory_bytes.max())
        )


class Evaluator:
    """Evaluates assignments of one problem.

    Args:
        problem: what is planned.
    """

    def __init__(self, problem: PlanningProblem) -> None:
        self.problem = problem
        self._num_devices = problem.cluster.num_devices

    def evaluate(self, assignment: Assignment, schedules: Sequence[str] | None = None) -> Evaluation:
        """Evaluates an assignment under the best of some schedules.

        The best is the fastest of those that fit the memory, else the one that exceeds it least.

        Args:
            schedules: names to try; None tries all that apply.

        Raises:
            PlanError: the partition is not legal.
            ScheduleError: a name is not known, or a device does not exist.
        """
        return self._best(self._placed(assignment), schedules)[0]

    def bottleneck_s(self, assignment: Assignment) -> float:
        """The largest load of a device per micro-batch. Raises PlanError if the partition is not legal."""
        return float(self.loads_s(assignment).max())

    def loads_s(self, assignment: Assignment) -> NDArray[np.float64]:
        """``[U]`` load per micro-batch of each used device. Raises PlanError if the partition is not legal."""
        return device_loads(self._placed(assignment))

    def make_plan(self, assignment: Assignment, provenance: Provenance, schedules: Sequence[str] | None = None) -> Plan:
        """The plan of an assignment with its best schedule and the prediction. Raises as `evaluate` does."""
        placed = self._placed(assignment)
        evaluation, flat = self._best(placed, schedules)
        problem, time = self.problem, evaluation.iteration_time_s
        members: list[list[str]] = [[] for _ in assignment.devices]
        for op, s in zip(problem.graph.ops, assignment.stage_of_op.tolist(), strict=True):
            members[s].append(op.name)
        samples = problem.graph.samples_per_microbatch * problem.training.num_microbatches
        return Plan(
            graph=problem.graph,
            cluster=problem.cluster,
            training=problem.training,
            stages=tuple(
                Stage(index=s, ops=tuple(ops), devices=tuple(devices), recompute=recompute)
                for s, (ops, devices, recompute) in enumerate(
                    zip(members, assignment.devices, assignment.recompute, strict=True)
                )
            ),
            schedule=to_schedule(flat, placed.used),
            schedule_name=evaluation.schedule_name,
            provenance=provenance,
            prediction=Prediction(
                iteration_time_s=time,
                bottleneck_s=evaluation.bottleneck_s,
                throughput_samples_per_s=samples / time if time else float("inf"),
                peak_memory_bytes=tuple(evaluation.peak_memory_bytes.tolist()),
                bubble_fraction=tuple(self._bubbles(placed, time).tolist()),
            ),
        )

    @functools.cached_property
    def _arrays(self) -> ProblemArrays:
        return problem_arrays(self.problem)

    def _placed(self, assignment: Assignment) -> PlacedStages:
        return place_assignment(self.problem, self._arrays, assignment)

    def _best(self, placed: PlacedStages, schedules: Sequence[str] | None) -> tuple[Evaluation, FlatSchedule]:
        names = schedules_for(placed) if schedules is None else schedules
        if not names:
            raise InputError("no schedule is given: name at least one, or None for all that apply")
        results = []
        for name in names:
            flat = generate(name, placed)
            time, peak = replay(placed, flat)
            over = max(0.0, float((peak - placed.memory_bytes).max()))
            cost = 1.0 + SPLIT_BACKWARD_COST if SCHEDULES[name].splits_backward else 1.0
            results.append((over, time * cost, time, name, peak, flat))
        over, _, time, name, peak, flat = min(results, key=lambda result: result[:2])
        peak_memory = np.zeros(self._num_devices)
        peak_memory[placed.used] = peak
        loads = device_loads(placed)
        return Evaluation(time, float(loads.max()), peak_memory, over, name), flat

    def _bubbles(self, placed: PlacedStages, time: float) -> NDArray[np.float64]:
        """``[D]`` part of the iteration in which each device does not compute."""
        compute = np.zeros(self._num_devices)
        compute[placed.used] = placed.optimizer_s
        num_microbatches = placed.num_microbatches
        sizes = np.diff(placed.slot_off)
        replica = np.arange(len(placed.slot_device)) - np.repeat(placed.slot_off[:-1], sizes)
        share = -(-(num_microbatches - replica) // np.repeat(sizes, sizes))  # micro-batches of each slot
        seconds = share.clip(min=0) * (placed.action_s[0] + placed.action_s[1])
        np.add.at(compute, placed.used[placed.slot_device], seconds)
        return 1.0 - compute / time if time else np.zeros(self._num_devices)
