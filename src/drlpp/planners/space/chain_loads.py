"""What the ops of a problem cost as stages in a row, one after the other: the sums that `chain_split` splits by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.optimizer_state import op_resident_bytes
from drlpp.cost.problem_times import problem_times
from drlpp.graph.csr import numbered
from drlpp.plan import Assignment, StageSettings
from drlpp.plan.settings import AGAIN, PLAIN
from drlpp.planners.space.chain_split import ChainLoads, crossing_bytes, fitting_split, split_chain
from drlpp.planners.space.device_orders import host_order
from drlpp.problem import PlanningProblem, per_problem

Places = Sequence[tuple[int, ...]]
"""Per stage, its devices."""
CHAIN_SETTINGS = (PLAIN, AGAIN)
"""What the stages of a chain may have, all alike."""


def chain_loads(problem: PlanningProblem, places: Places, settings: StageSettings) -> ChainLoads:
    """The loads of runs of ops in their order; a device with several of the stages gives each the same part of its
    memory. Args: `settings`: of all stages."""
    graph, cluster, stages = problem.graph, problem.cluster, len(places)
    own = np.array([problem.training.num_microbatches // len(devices) for devices in places])
    in_flight = np.minimum(own, np.arange(stages, 0, -1)).astype(np.float64)
    rounds = np.array([list(places).count(devices) for devices in places])
    memory = np.array([cluster.memory_bytes[list(devices)].min() for devices in places])
    total_s = problem_times(problem).total_s
    seconds = [total_s[cluster.type_index[list(devices)]].max(axis=0) for devices in places]
    return ChainLoads(
        seconds=_sums(np.array(seconds)),
        resident_bytes=_sums(op_resident_bytes(graph, problem.training)),
        activation_bytes=_sums(graph.op_saved_bytes),
        boundary_bytes=_boundary_bytes(problem),
        capacity_bytes=memory / rounds,
        kept=np.ones(stages) if settings.recompute else in_flight,
        received=in_flight if settings.recompute else np.zeros(stages),
    )


def chain_assignment(starts: Sequence[int], places: Places, num_ops: int, settings: StageSettings) -> Assignment:
    """Stages that begin with the ops `starts`, on `places`, all with the same settings."""
    stage = np.searchsorted(np.array(starts), np.arange(num_ops), side="right") - 1
    return Assignment(stage.astype(np.int64), tuple(places), (settings,) * len(starts))


def memory_splits(problem: PlanningProblem) -> Iterator[Assignment]:
    """Consecutive stages, one on each device, that fit the memory if any in that order do, and are balanced then."""
    for places, settings in _in_a_row(problem):
        starts = split_chain(chain_loads(problem, places, settings)).starts
        yield chain_assignment(starts, places, problem.graph.num_ops, settings)


@per_problem
def fitting_splits(problem: PlanningProblem) -> tuple[Assignment, ...]:
    """Those of `memory_splits` that may fit the memory."""
    found = []
    for places, settings in _in_a_row(problem):
        starts = fitting_split(chain_loads(problem, places, settings))
        if starts is not None:
            found.append(chain_assignment(starts, places, problem.graph.num_ops, settings))
    return tuple(found)


def _in_a_row(problem: PlanningProblem) -> Iterator[tuple[Places, StageSettings]]:
    """One device for each stage, and the settings of the stages."""
    order, memory = host_order(problem.cluster), problem.cluster.memory_bytes
    larger_first = sorted(order, key=lambda d: -memory[d])
    for devices in dict.fromkeys(tuple(found[: problem.graph.num_ops]) for found in (order, larger_first)):
        yield from ((tuple((d,) for d in devices), settings) for settings in CHAIN_SETTINGS)


@per_problem
def _boundary_bytes(problem: PlanningProblem) -> NDArray[np.float64]:
    """``[num_ops]`` what a stage receives that begins with the op."""
    graph = problem.graph
    tensor, sizes = graph.values.tensor[graph.values.of_edge], graph.tensor_table.bytes
    before, after = np.sort(graph.edge_ends, axis=1).T
    first, number = numbered(before * len(sizes) + tensor)
    last = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(last, number, after)
    return crossing_bytes(np.stack([before[first], last], axis=1), sizes[tensor[first]], graph.num_ops)


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
