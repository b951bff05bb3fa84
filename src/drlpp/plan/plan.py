"""The plan: partition, placement and schedule, with the problem it was made for and what is predicted of it.

A plan is all that is needed to simulate, report, export or run: it carries the operator graph (with its source),
the cluster and the training set-up. Planners write it; everything else reads it. `plan.validation` says when it is
legal.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster
from drlpp.cluster.grouping import Grouping, completed
from drlpp.errors import PlanError
from drlpp.graph import OpGraph
from drlpp.graph.stages import StageGraph, stage_graph
from drlpp.plan.action import Schedule
from drlpp.plan.assignment import Assignment
from drlpp.plan.stage import Stage, assignment_of, check_stages
from drlpp.training import TrainingSetup


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the simulator says of a plan.

    Attributes:
        iteration_time_s: seconds of one optimizer step.
        bottleneck_s: largest load of a device per micro-batch (compute and its own transfers), in seconds.
        throughput_samples_per_s: samples of a step over `iteration_time_s`.
        peak_memory_bytes: per device.
        bubble_fraction: per device, the part of the iteration in which it does not compute.
    """

    iteration_time_s: float
    bottleneck_s: float
    throughput_samples_per_s: float
    peak_memory_bytes: tuple[float, ...]
    bubble_fraction: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Who made a plan and how: enough to make it again.

    Attributes:
        parameters: settings of the planner by name, as JSON has them (`drlpp.planners.parameters`).
        notes: more for people.
    """

    planner: str
    seed: int = 0
    budget_s: float | None = None
    version: str = ""
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A pipeline-parallel plan.

    Attributes:
        stages: ``stages[i].index == i``.
        schedule: rank (device id) -> its actions in order; a device without a stage has no entry.
        schedule_name: the generator that made the schedule.
    """

    graph: OpGraph
    cluster: Cluster
    training: TrainingSetup
    stages: tuple[Stage, ...]
    schedule: Schedule
    schedule_name: str
    provenance: Provenance
    prediction: Prediction | None = None

    def __post_init__(self) -> None:
        check_stages(self.stages, self.cluster)

    @property
    def num_stages(self) -> int:
        return len(self.stages)

    @property
    def num_microbatches(self) -> int:
        return self.training.num_microbatches

    @functools.cached_property
    def used_devices(self) -> tuple[int, ...]:
        """Devices that run at least one stage, in order: rank r of a run is the r-th of them."""
        return tuple(sorted({d for stage in self.stages for d in stage.devices}))

    @property
    def model_flops_utilization(self) -> float | None:
        """FLOP of the model in a step over what all devices could compute in its time at their dense peaks.

        The second forward pass of a stage that recomputes is not work of the model. None without a prediction, FLOP, or
        the peak of a device.
        """
        peaks = [d.type.peak(self.graph.compute_dtype) for d in self.cluster.devices if d.type.peak_flops]
        works = (work for op in self.graph.ops for work in (op.forward, op.input_grad, op.weight_grad))
        flop = sum(work.flop for work in works) * self.num_microbatches
        if self.prediction is None or len(peaks) < self.cluster.num_devices or not flop:
            return None
        return flop / (self.prediction.iteration_time_s * sum(peaks))

    @functools.cached_property
    def stage_of_op(self) -> NDArray[np.int64]:
        """``[num_ops]`` stage of each op. Raises PlanError if an op is missing, unknown or in two stages."""
        out = np.full(self.graph.num_ops, -1, dtype=np.int64)
        for stage in self.stages:
            for name in stage.ops:
                i = self.graph.index.get(name)
                if i is None:
                    raise PlanError(f"stage {stage.index} lists op {name!r}: graph {self.graph.name!r} has no such op")
                if out[i] >= 0:
                    raise PlanError(f"op {name!r} is in stages {out[i]} and {stage.index}: it must be in exactly one")
                out[i] = stage.index
        missing = np.flatnonzero(out < 0)
        if len(missing):
            raise PlanError(
                f"op {self.graph.ops[missing[0]].name!r} is in no stage ({len(missing)} missing): list every op"
            )
        return out

    @functools.cached_property
    def grouping(self) -> Grouping:
        """The groups of the stages; idle devices are grouped like their neighbours."""
        return completed([group for stage in self.stages for group in stage.replicas], self.cluster)

    @functools.cached_property
    def assignment(self) -> Assignment:
        """Partition and placement alone, on groups as numbered in `grouping`. Raises as `stage_of_op` does."""
        return assignment_of(self.stages, self.stage_of_op, self.grouping.groups)

    @functools.cached_property
    def stage_graph(self) -> StageGraph:
        """The DAG of stages. Raises PlanError if the partition is not legal."""
        return stage_graph(self.graph, self.stage_of_op, self.num_stages)
