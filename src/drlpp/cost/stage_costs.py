"""Costs of the stages of a partition on every device of a cluster: what simulators and schedulers work on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.optimizer_state import late_gradient, optimizer_s_per_byte, state_bytes
from drlpp.cost.problem_times import problem_times
from drlpp.cost.shared_graphs import held_graphs
from drlpp.errors import ScheduleError
from drlpp.graph.blocks import Recompute, block_numbers
from drlpp.graph.stages import StageGraph, stage_graph
from drlpp.plan import Assignment, Plan, StageSettings
from drlpp.plan.settings import PLAIN
from drlpp.plan.validation import check_undivided
from drlpp.problem import PlanningProblem


class Tied(NamedTuple):
    """What two or more stages share.

    Attributes:
        trained_bytes, fixed_bytes: ``[D]`` as in `StageCosts`, of what all of `stages` read.
    """

    stages: tuple[int, ...]
    trained_bytes: NDArray[np.float64]
    fixed_bytes: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class StageCosts:
    """Seconds and bytes of each stage.

    Attributes:
        forward_s, input_grad_s, weight_grad_s: ``[S, D]`` seconds per micro-batch of stage s on device d; the first two
            with what a pass takes besides its ops.
        optimizer_s: ``[S, D]`` seconds of the optimizer step on the stage's parameters (0 if the device's memory
            bandwidth is not known).
        again_s: ``[S, D]`` seconds of the second forward pass, before the backward pass; 0 where a stage does not
            recompute.
        held_bytes: ``[S, D]`` kept from F to the end of the backward pass, per micro-batch.
        again_bytes, remade_bytes: ``[S, D]`` more that B, and that I to W, of a stage that recomputes needs (else 0).
        trained_bytes: ``[S, D]`` trained parameters that the stage reads.
        fixed_bytes: ``[S, D]`` frozen parameters and buffers that it reads, as they lie on the device.
        resident_bytes: ``[S, D]`` trained parameters, gradients and optimizer state, all of it on one device.
        gradient_bytes: ``[S, D]`` the part of them that is gradients, where these do not exist from the start.
        tied: by set of stages, what they share.
        divided_states: bytes of state per byte of a trained parameter that the devices divide which sum its gradient.
        divided_update_s: ``[D]`` seconds of the optimizer step per byte of a trained parameter that they divide.
        graph: messages between stages.
    """

    forward_s: NDArray[np.float64]
    input_grad_s: NDArray[np.float64]
    weight_grad_s: NDArray[np.float64]
    optimizer_s: NDArray[np.float64]
    again_s: NDArray[np.float64]
    held_bytes: NDArray[np.float64]
    again_bytes: NDArray[np.float64]
    remade_bytes: NDArray[np.float64]
    trained_bytes: NDArray[np.float64]
    fixed_bytes: NDArray[np.float64]
    resident_bytes: NDArray[np.float64]
    gradient_bytes: NDArray[np.float64]
    tied: tuple[Tied, ...]
    divided_states: float
    divided_update_s: NDArray[np.float64]
    graph: StageGraph

    @property
    def backward_s(self) -> NDArray[np.float64]:
        """``[S, D]`` seconds of a whole backward pass."""
        return self.input_grad_s + self.weight_grad_s


def costs_of_plan(plan: Plan) -> StageCosts:
    """Costs of the stages of a plan.

    Raises:
        PlanError: the partition is not legal, or ops are divided (`cost.groups.for_groups` has a plan where none are).
    """
    check_undivided(plan, "a price of single devices")
    problem, assignment = PlanningProblem(plan.graph, plan.cluster, plan.training), plan.assignment
    return stage_costs(problem, assignment.stage_of_op, assignment.num_stages, assignment.settings)


def stage_seconds(problem: PlanningProblem, assignment: Assignment) -> NDArray[np.float64]:
    """``[T, S]`` seconds of the ops of each stage for a micro-batch, on each device type.

    A stage that computes its blocks again is counted as if it ran its whole forward pass again.
    """
    times, stages, number = problem_times(problem), assignment.stage_of_op, assignment.num_stages
    again = np.array([s.recompute for s in assignment.settings], dtype=np.bool_)[stages]
    rows = times.total_s + np.where(again, times.forward_s, 0.0)
    return np.array([np.bincount(stages, row, number) for row in rows])


def stage_costs(
    problem: PlanningProblem, stage_of_op: NDArray[np.int64], num_stages: int, settings: Sequence[StageSettings] = ()
) -> StageCosts:
    """Sums op times into stages.

    Args:
        stage_of_op: ``[num_ops]``.
        settings: of each stage; empty where all are plain.

    Raises:
        PlanError: the partition is not legal.
        ScheduleError: `settings` has another length.
    """
    choices = np.array([s.recompute for s in settings or (PLAIN,) * num_stages], dtype=np.int64)
    if len(choices) != num_stages:
        raise ScheduleError(f"settings are given for {len(choices)} stages: there are {num_stages}")
    stages = stage_graph(problem.graph, stage_of_op, num_stages)
    cluster, training, times = problem.cluster, problem.training, problem_times(problem)
    state = state_bytes(problem.graph, training)

    def per_stage(table: NDArray[np.float64]) -> NDArray[np.float64]:
        by_type = np.array([np.bincount(stage_of_op, weights=row, minlength=num_stages) for row in table])  # [T, S]
        return np.ascontiguousarray(by_type[cluster.type_index].T)

    by_type = [
        stages if held is problem.graph else stage_graph(held, stage_of_op, num_stages) for held in held_graphs(problem)
    ]

    def per_device(amounts: Callable[[StageGraph], NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.array([amounts(held) for held in by_type])[cluster.type_index].swapaxes(0, 1).copy()

    update_s = optimizer_s_per_byte(problem)
    forward_s = per_stage(times.forward_s)
    in_blocks_s = per_stage(times.forward_s * (block_numbers(problem.graph) >= 0))
    again_s = np.where((choices == Recompute.BLOCK)[:, None], in_blocks_s, forward_s)
    kept = per_device(lambda held: np.array([held.kept(s, choice) for s, choice in enumerate(choices.tolist())]))
    trained = per_device(lambda held: held.trained_bytes)
    tied = [np.array([held.tied[g][1:] for held in by_type])[cluster.type_index].T for g in range(len(stages.tied))]
    besides_s = np.array([d.type.action_s for d in cluster.devices])
    return StageCosts(
        forward_s=forward_s + besides_s,
        input_grad_s=per_stage(times.input_grad_s) + besides_s,
        weight_grad_s=per_stage(times.weight_grad_s),
        optimizer_s=trained * update_s,
        again_s=np.where((choices > 0)[:, None], again_s, 0.0),
        held_bytes=kept[..., 0],
        again_bytes=kept[..., 1],
        remade_bytes=kept[..., 2],
        trained_bytes=trained,
        fixed_bytes=per_device(lambda held: held.frozen_bytes) * state.parameter,
        resident_bytes=trained * state.total,
        gradient_bytes=trained * late_gradient(problem.graph, training),
        tied=tuple(Tied(s[0], a, b * state.parameter) for s, (a, b) in zip(stages.tied, tied, strict=True)),
        divided_states=state.divided,
        divided_update_s=update_s * training.zero1,
        graph=stages,
    )
