"""A stage: the ops that run together, the devices that run them, and how these divide the work and the memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster
from drlpp.cluster.grouping import why_no_group
from drlpp.errors import PlanError
from drlpp.graph import OpGraph
from drlpp.plan.assignment import Assignment
from drlpp.plan.settings import PLAIN, StageSettings
from drlpp.plan.shares import turns


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """What the devices of a replica divide among themselves.

    Attributes:
        tensor: their number; every op that can be is divided among them.
        sequence: what is kept between divided ops is divided as well.

    Raises:
        PlanError: a value is out of range.
    """

    tensor: int = 1
    sequence: bool = False

    def __post_init__(self) -> None:
        if self.tensor < 1:
            raise PlanError(f"sharding: tensor is {self.tensor}: it must be at least 1")
        if self.sequence and self.tensor == 1:
            raise PlanError("sharding: sequence is true with tensor 1: it divides what tensor-parallel devices keep")


WHOLE = Sharding()
"""Nothing is divided."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A set of ops that run together, and where.

    Attributes:
        index: position in the pipeline; every edge goes from a stage to itself or to a later one.
        ops: names of ops of the graph.
        replicas: a group of devices for each.
        sharding: what the devices of a group divide.
        settings: what else is chosen of it, the same as in an assignment.

    Raises:
        PlanError: shares do not fit the replicas.
    """

    index: int
    ops: tuple[str, ...]
    replicas: tuple[tuple[int, ...], ...]
    sharding: Sharding = WHOLE
    settings: StageSettings = PLAIN

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", self.settings.fitted(len(self.replicas), self.index))

    @property
    def num_replicas(self) -> int:
        return len(self.replicas)

    @property
    def devices(self) -> tuple[int, ...]:
        """All devices: those of the first replica, then those of the next."""
        return tuple(itertools.chain.from_iterable(self.replicas))

    @property
    def turns(self) -> tuple[int, ...]:
        """The replicas that run the micro-batches of a round (`plan.shares.turns`)."""
        return turns(self.settings.shares, len(self.replicas))

    def group(self, microbatch: int) -> tuple[int, ...]:
        """The devices that run a micro-batch of this stage."""
        order = self.turns
        return self.replicas[order[microbatch % len(order)]]

    def device(self, microbatch: int) -> int:
        """The first of the devices that run a micro-batch: the only one where the stage is not divided."""
        return self.group(microbatch)[0]


def stages_of(graph: OpGraph, assignment: Assignment) -> tuple[Stage, ...]:
    """The stages of an assignment, each replica on one device, with the names of their ops."""
    members: list[list[str]] = [[] for _ in assignment.devices]
    for op, s in zip(graph.ops, assignment.stage_of_op.tolist(), strict=True):
        members[s].append(op.name)
    each = zip(members, assignment.devices, assignment.settings, strict=True)
    return tuple(
        Stage(index=s, ops=tuple(ops), replicas=tuple((d,) for d in devices), settings=settings)
        for s, (ops, devices, settings) in enumerate(each)
    )


def assignment_of(
    stages: Sequence[Stage], stage_of_op: NDArray[np.int64], groups: Sequence[tuple[int, ...]]
) -> Assignment:
    """The assignment that stages stand for, the way back from `stages_of`. Args: `groups`: its devices, by number."""
    number = {group: i for i, group in enumerate(groups)}
    return Assignment(
        stage_of_op,
        tuple(tuple(number[group] for group in stage.replicas) for stage in stages),
        tuple(stage.settings for stage in stages),
    )


def check_stages(stages: Sequence[Stage], cluster: Cluster) -> None:
    """Checks that the stages of a plan fit its cluster. Raises PlanError that names the first thing that is wrong."""
    if not stages:
        raise PlanError("the plan has no stages: it needs at least one")
    groups: dict[int, tuple[int, ...]] = {}
    for i, stage in enumerate(stages):
        if stage.index != i:
            raise PlanError(f"stage at position {i} has index {stage.index}: list stages in order without gaps")
        _check_devices(stage, cluster)
        for group in stage.replicas:
            for d in group:
                other = groups.setdefault(d, group)
                if other != group:
                    raise PlanError(
                        f"stage {i} runs on the group {list(group)}, and another stage on {list(other)}: groups of two "
                        "stages are equal or have no device in common"
                    )


def _check_devices(stage: Stage, cluster: Cluster) -> None:
    i, devices, tensor = stage.index, stage.devices, stage.sharding.tensor
    if not devices:
        raise PlanError(f"stage {i} has no devices: every stage needs at least one")
    for group in stage.replicas:
        if len(group) != tensor:
            raise PlanError(
                f"stage {i} has the replica {list(group)}: a replica of it is a group of {tensor} (sharding: tensor)"
            )
    if len(set(devices)) < len(devices):
        raise PlanError(f"stage {i} lists a device twice in {list(devices)}: replicas must be distinct")
    for d in devices:
        if not 0 <= d < cluster.num_devices:
            raise PlanError(
                f"stage {i} is on device {d}: cluster {cluster.name!r} has devices 0..{cluster.num_devices - 1}"
            )
    if tensor == 1:
        return
    for group in stage.replicas:
        if reason := why_no_group(cluster, group):
            raise PlanError(f"stage {i} has the replica {list(group)}: {reason}")
    kinds = {(cluster.devices[g[0]].type.name, cluster.hosts[cluster.devices[g[0]].host].link) for g in stage.replicas}
    if len(kinds) > 1:
        raise PlanError(
            f"stage {i} has replicas of unequal devices or links: the replicas of a stage whose ops are divided must "
            "divide them alike"
        )
