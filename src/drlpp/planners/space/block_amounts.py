"""What the blocks of a model cost as stages in a row: the amounts that `chain_split` splits by."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.optimizer_state import op_resident_bytes
from drlpp.cost.problem_times import problem_times
from drlpp.graph.csr import numbered
from drlpp.plan import Assignment
from drlpp.planners.space.chain_split import ChainLoads, crossing_bytes, fitting_split, split_chain
from drlpp.planners.space.device_orders import host_order
from drlpp.problem import PlanningProblem, per_problem

Places = Sequence[tuple[int, ...]]
"""Per stage, its devices."""


@dataclasses.dataclass(frozen=True)
class BlockAmounts:
    """Amounts of n blocks of ops that follow one another.

    Attributes:
        problem: what is planned.
        block: ``[num_ops]`` the block of each op.
        seconds: ``[T, n]`` seconds per micro-batch on each device type.
        resident_bytes, activation_bytes: ``[n]`` what stays, and what one micro-batch in flight keeps.
        boundary_bytes: ``[n]`` what a stage receives that begins with the block.
    """

    problem: PlanningProblem
    block: NDArray[np.int64]
    seconds: NDArray[np.float64]
    resident_bytes: NDArray[np.float64]
    activation_bytes: NDArray[np.float64]
    boundary_bytes: NDArray[np.float64]

    @classmethod
    def of(cls, problem: PlanningProblem, block: NDArray[np.int64]) -> BlockAmounts:
        graph, n = problem.graph, int(block.max()) + 1
        tensor, sizes = graph.values.tensor[graph.values.of_edge], graph.tensor_table.bytes
        before, after = np.sort(graph.edge_ends, axis=1).T
        first, number = numbered(before * len(sizes) + tensor)
        last = np.zeros(len(first), dtype=np.int64)
        np.maximum.at(last, number, block[after])
        ends = np.stack([block[before[first]], last], axis=1)
        return cls(
            problem=problem,
            block=block,
            seconds=np.array([_per_block(block, row) for row in problem_times(problem).total_s]),
            resident_bytes=_per_block(block, op_resident_bytes(graph, problem.training)),
            activation_bytes=_per_block(block, graph.op_saved_bytes),
            boundary_bytes=crossing_bytes(ends, sizes[tensor[first]], n),
        )

    @property
    def num_blocks(self) -> int:
        return len(self.resident_bytes)

    def split(self, places: Places, *, recompute: bool) -> tuple[int, ...]:
        """The first block of each stage in the split of the smallest largest load that fits; else of least excess.

        A device with several of the stages gives each the same part of its memory.

        Raises:
            PlanError: there are more stages than blocks.
        """
        return split_chain(self.loads(places, recompute=recompute)).starts

    def loads(self, places: Places, *, recompute: bool) -> ChainLoads:
        """What the blocks cost as stages on `places`."""
        cluster, stages = self.problem.cluster, len(places)
        own = np.array([self.problem.training.num_microbatches // len(devices) for devices in places])
        in_flight = np.minimum(own, np.arange(stages, 0, -1)).astype(np.float64)
        rounds = np.array([list(places).count(devices) for devices in places])
        memory = np.array([cluster.memory_bytes[list(devices)].min() for devices in places])
        seconds = [self.seconds[cluster.type_index[list(devices)]].max(axis=0) for devices in places]
        return ChainLoads(
            seconds=_sums(np.array(seconds)),
            resident_bytes=_sums(self.resident_bytes),
            activation_bytes=_sums(self.activation_bytes),
            boundary_bytes=self.boundary_bytes,
            capacity_bytes=memory / rounds,
            kept=np.ones(stages) if recompute else in_flight,
            received=in_flight if recompute else np.zeros(stages),
        )


def memory_splits(problem: PlanningProblem) -> Iterator[Assignment]:
    """Consecutive stages, one on each device, that fit the memory if any in that order do, and are balanced then."""
    amounts = BlockAmounts.of(problem, np.arange(problem.graph.num_ops))
    for places, recompute in _in_a_row(amounts):
        starts = amounts.split(places, recompute=recompute)
        yield assignment(amounts.block, starts, places, recompute=recompute)


@per_problem
def fitting_splits(problem: PlanningProblem) -> tuple[Assignment, ...]:
    """Those of `memory_splits` that may fit the memory."""
    amounts = BlockAmounts.of(problem, np.arange(problem.graph.num_ops))
    found = []
    for places, recompute in _in_a_row(amounts):
        starts = fitting_split(amounts.loads(places, recompute=recompute))
        if starts is not None:
            found.append(assignment(amounts.block, starts, places, recompute=recompute))
    return tuple(found)


def _in_a_row(amounts: BlockAmounts) -> Iterator[tuple[Places, bool]]:
    """One device for each stage, and whether the stages recompute."""
    cluster = amounts.problem.cluster
    order = host_order(cluster)
    larger_first = sorted(order, key=lambda d: -cluster.memory_bytes[d])
    for devices in dict.fromkeys(tuple(found[: amounts.num_blocks]) for found in (order, larger_first)):
        yield from ((tuple((d,) for d in devices), recompute) for recompute in (False, True))


def assignment(block: NDArray[np.int64], starts: Sequence[int], places: Places, *, recompute: bool) -> Assignment:
    """Stages that begin with the blocks `starts`, on `places`."""
    stage = np.searchsorted(np.array(starts), block, side="right") - 1
    return Assignment(stage.astype(np.int64), tuple(places), (recompute,) * len(starts))


def _per_block(block: NDArray[np.int64], amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.bincount(block, weights=amounts), dtype=np.float64)


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
