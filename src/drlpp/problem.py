"""The planning problem: an operator graph, a cluster, a training set-up and an objective."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster
from drlpp.cost import OpTimeTable, StageCosts, op_times, stage_costs
from drlpp.graph import OpGraph
from drlpp.graph.stages import stage_graph
from drlpp.plan import Objective
from drlpp.training import TrainingSetup


def default_num_microbatches(num_devices: int) -> int:
    """Micro-batches per step when the user names none: two per device, at least eight."""
    return max(8, 2 * num_devices)


@dataclasses.dataclass(frozen=True)
class PlanningProblem:
    """What a planner is asked.

    Attributes:
        graph: the model, for one micro-batch.
        cluster: the devices and links.
        training: micro-batches per step and optimizer.
        objective: what planners minimise.
        replication: stages may run on several devices.

    Raises:
        InputError: the objective is not known.
    """

    graph: OpGraph
    cluster: Cluster
    training: TrainingSetup
    objective: Objective = Objective.ITERATION_TIME
    replication: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", Objective(self.objective))

    @classmethod
    def build(
        cls,
        graph: OpGraph,
        cluster: Cluster,
        *,
        num_microbatches: int | None = None,
        optimizer: str = "momentum",
        objective: Objective | str = Objective.ITERATION_TIME,
    ) -> PlanningProblem:
        """A problem with defaults filled in (`default_num_microbatches`)."""
        number = default_num_microbatches(cluster.num_devices) if num_microbatches is None else num_microbatches
        return cls(graph, cluster, TrainingSetup(num_microbatches=number, optimizer=optimizer), Objective(objective))

    @functools.cached_property
    def times(self) -> OpTimeTable:
        """Seconds of every op on every device type."""
        return op_times(self.graph, self.cluster)

    @property
    def may_replicate(self) -> bool:
        """Stages may run on several devices: `replication`, but never where edges carry transfer times.

        Such files (dnn-partitioning) say nothing of parameters, so the gradient exchange would look free, and their
        objective gives each op one device.
        """
        return self.replication and not self.graph.has_transfer_times

    def stage_costs(self, stage_of_op: NDArray[np.int64], num_stages: int) -> StageCosts:
        """Costs of the stages of a partition. Raises PlanError if it is not legal."""
        stages = stage_graph(self.graph, stage_of_op, num_stages)
        return stage_costs(stage_of_op, stages, self.times, self.cluster, self.training)
