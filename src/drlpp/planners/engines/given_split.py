"""One's own split of a model: so many layers in each stage. What is left to find are devices and recomputation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import InputError
from drlpp.graph import OpGraph
from drlpp.plan.modules import is_entry, layer_list, unit_around
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.engines.chain_search import Chain, ChainSearch, looped
from drlpp.planners.engines.cut_points import block_of_op
from drlpp.planners.engines.engine import RUN, Engine
from drlpp.planners.engines.rank_groups import Ranks
from drlpp.planners.engines.restricted import usable_groupings
from drlpp.problem import PlanningProblem

_IMPROVED = 4
"""Groupings of the devices whose ranks are exchanged."""


class GivenSplit:
    """A planner that keeps a split: stages of so many layers, on the devices where they take least time.

    What comes before the layers is in the first stage, what comes after them in the last.

    Args:
        layers: entries of the model's list of layers in each stage.
        engine: whose rules count.
    """

    name = "given"
    summary = "the layers of each stage as they are given, on the devices where they take least time"

    def __init__(self, layers: tuple[int, ...], engine: Engine = RUN) -> None:
        self.layers = layers
        self.engine = engine

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        """The plan of the split.

        Raises:
            InputError: the model has no such layers, or the engine cannot cut or place them so.
            PlanError: the graph has nothing that the engine could cut at.
        """
        stage = stage_of_op(problem.graph, self.layers)
        _check_cuts(problem.graph, stage, self.engine)
        search = ChainSearch(problem, self.engine, stage, budget)
        found: list[tuple[float, Chain]] = []
        for ranks in usable_groupings(problem, self.engine, len(self.layers), len(self.layers)):
            for chain in self._chain(ranks).with_all_settings:
                found.append((search.offer(chain), chain))
            if budget.spent:
                break
        for _, chain in sorted(found, key=lambda pair: pair[0])[:_IMPROVED]:
            search.offer(search.polished(chain, budget, cuts_stay=True))
        layers = ",".join(map(str, self.layers))
        return search.result(self.name, seed, {"restricted_to": self.engine.name, "layers": layers}, {})

    def _chain(self, ranks: Ranks) -> Chain:
        """Stage i on the i-th rank in the order of the cluster; more stages than ranks loop over them."""
        count = len(self.layers)
        places, spare = looped(tuple(sorted(ranks)), count)
        return Chain(tuple(range(count)), places, spare=spare)


def stage_of_op(graph: OpGraph, layers: tuple[int, ...]) -> NDArray[np.int64]:
    """``[num_ops]`` the stage of each op. Raises InputError if the model has no such layers."""
    path = layer_list(graph)
    if path is None:
        raise InputError(
            f"--layers: graph {graph.name!r} names no list of layers (modules like 'layers.0', 'layers.1'): capture a "
            "PyTorch model that has one"
        )
    first: dict[str, int] = {}
    end = 0
    for i, op in enumerate(graph.ops):
        unit = unit_around(op.module, path)
        if unit is not None and is_entry(unit, path):
            first.setdefault(unit, i)
            end = i + 1
    begins = [*first.values(), end]
    if sum(layers) != len(first):
        raise InputError(
            f"--layers gives {sum(layers)} layers to {len(layers)} stages, but {path or graph.name!r} has "
            f"{len(first)}: make the numbers add up"
        )
    starts = [0, *(begins[k] for k in np.cumsum(layers)[:-1])]
    if empty := [s for s, (a, b) in enumerate(zip(starts, [*starts[1:], graph.num_ops], strict=True)) if a >= b]:
        raise InputError(f"--layers: nothing is left for stage {empty[0]}: give it a layer")
    return np.searchsorted(np.array(starts), np.arange(graph.num_ops), side="right").astype(np.int64) - 1


def _check_cuts(graph: OpGraph, stage: NDArray[np.int64], engine: Engine) -> None:
    block = block_of_op(graph, engine)
    for position in np.flatnonzero(np.diff(stage)).tolist():
        if block[position] == block[position + 1]:
            op = graph.ops[position + 1]
            raise InputError(
                f"--layers: {engine.title} cannot cut before {op.module or op.name!r}, where stage "
                f"{stage[position + 1]} begins: give another split, or leave --for out"
            )
