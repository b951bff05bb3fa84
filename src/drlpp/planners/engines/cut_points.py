"""Where an engine can cut a model: positions in the order of the ops, and the graph of the blocks between them.

Every legal partition of the block graph is, mapped back, a chain of stages that the engine can express: no tensor
with a gradient crosses two cuts, so no stage sends further than to the next one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.problem_times import problem_times
from drlpp.cost.shared_graphs import contracted
from drlpp.errors import PlanError
from drlpp.graph import OpGraph
from drlpp.graph.contract import contract
from drlpp.graph.serving import carried_edges
from drlpp.plan.modules import is_entry, joined_spans, layer_list, prefixes, top_level_unit, unit_around
from drlpp.planners.engines.engine import Engine
from drlpp.problem import PlanningProblem

_ELSEWHERE = "`drlpp run` executes plans of any shape"


def block_of_op(graph: OpGraph, engine: Engine) -> NDArray[np.int64]:
    """``[num_ops]`` index of the block that each op is in; blocks are consecutive and a stage is a run of blocks.

    Raises:
        PlanError: the graph has nothing that the engine could cut at.
    """
    if engine.cuts == "ops":
        return np.arange(graph.num_ops, dtype=np.int64)
    for edge in graph.edges:
        if edge.phase == "backward":
            raise PlanError(
                f"{engine.title} derives the backward pass itself, but graph {graph.name!r} lists its own backward "
                "operators: plan a captured model instead of this profile"
            )
    kinds = {"layers": _layer_cuts, "top-level": _top_level_cuts, "modules": _module_cuts}
    cuts = kinds[engine.cuts](graph, engine)
    if not engine.ties:
        cuts = _without(cuts, _spans((p, i) for i, op in enumerate(graph.ops) for p in op.params))
    cuts = _with_gradient(_chain(cuts, graph), graph)
    first = np.zeros(graph.num_ops, dtype=np.int64)
    first[sorted(cuts)] = 1
    return np.asarray(np.cumsum(first), dtype=np.int64)


def _with_gradient(cuts: set[int], graph: OpGraph) -> set[int]:
    """The cuts that a gradient crosses: engines wait for one at every cut, unless nothing is trained."""
    if not any(e.requires_grad for e in graph.edges):
        return cuts
    crossing = np.zeros(graph.num_ops + 1, dtype=np.int64)
    for e in graph.edges:
        if e.requires_grad:
            crossing[graph.index[e.src] + 1] += 1
            crossing[graph.index[e.dst] + 1] -= 1
    crossing = np.cumsum(crossing)
    return {c for c in cuts if crossing[c] > 0}


def problem_of_blocks(problem: PlanningProblem, block: NDArray[np.int64]) -> PlanningProblem:
    """The problem whose ops are the blocks; it has the exact times of the problem's cluster."""
    graph, times = problem.graph, problem_times(problem).by_type(problem.cluster)
    return contracted(problem, contract(graph, block, times, f"{graph.name} in blocks"))


def _layer_cuts(graph: OpGraph, engine: Engine) -> set[int]:
    """Positions where an entry of the list of layers begins, or a module beside it."""
    layers = layer_list(graph)
    if layers is None:
        raise PlanError(
            f"{engine.title} cuts a model between the entries of a list of layers, but graph {graph.name!r} names no "
            f"such list (modules like 'layers.0', 'layers.1'): plan for torch; {_ELSEWHERE}"
        )
    cuts, first = _unit_cuts([unit_around(op.module, layers) for op in graph.ops])
    entries = [i for unit, i in first.items() if is_entry(unit, layers)]
    beside = [i for unit, i in first.items() if not is_entry(unit, layers) and i > min(entries)]
    if engine.fixed_ends:
        cuts = {c for c in cuts if min(entries) <= c <= min(beside, default=graph.num_ops)}
    if engine.layer_in_every_stage:
        cuts &= set(entries) - {min(entries)}
    return cuts


def _top_level_cuts(graph: OpGraph, engine: Engine) -> set[int]:
    """Positions where a top-level module, or an entry of a top-level list, begins; wrappers do not count."""
    _check_modules(graph, engine)
    unit = top_level_unit(graph)
    return _unit_cuts([unit(op.module) for op in graph.ops])[0]


def _module_cuts(graph: OpGraph, engine: Engine) -> set[int]:
    """Positions where a module begins; modules that have parameters of their own, but for the model, stay whole."""
    _check_modules(graph, engine)
    first: dict[str, int] = {}
    for i, op in enumerate(graph.ops):
        for path in prefixes(op.module):
            first.setdefault(path, i)
    owners = {p.rpartition(".")[0] for op in graph.ops for p in op.params}
    spans = _spans((op.module, i) for i, op in enumerate(graph.ops) if op.module and op.module in owners)
    if not engine.moves_tensors_everywhere:
        spans += joined_spans(graph)
    return _without(set(first.values()) - {min(first.values())}, spans)


def _unit_cuts(units: Sequence[str | None]) -> tuple[set[int], dict[str, int]]:
    """Positions where units but the first begin, outside of other units; and the first position of each unit."""
    first: dict[str, int] = {}
    for i, unit in enumerate(units):
        if unit is not None:
            first.setdefault(unit, i)
    spans = _spans((unit, i) for i, unit in enumerate(units) if unit is not None)
    return _without(set(sorted(first.values())[1:]), spans), first


def _check_modules(graph: OpGraph, engine: Engine) -> None:
    if not any(op.module for op in graph.ops):
        raise PlanError(
            f"{engine.title} cuts a model where its modules begin, but graph {graph.name!r} names none: capture a "
            f"PyTorch model; {_ELSEWHERE}"
        )


def _spans(places: Iterable[tuple[str, int]]) -> list[tuple[int, int]]:
    """First and last position of everything that must stay whole."""
    spans: dict[str, tuple[int, int]] = {}
    for key, i in places:
        first, _ = spans.get(key, (i, i))
        spans[key] = (first, i)
    return list(spans.values())


def _without(cuts: set[int], spans: Iterable[tuple[int, int]]) -> set[int]:
    """The cuts that go through no span."""
    depth: dict[int, int] = defaultdict(int)
    for first, last in spans:
        depth[first + 1] += 1
        depth[last + 1] -= 1
    out, inside, steps = set(), 0, sorted(depth.items())
    k = 0
    for cut in sorted(cuts):
        while k < len(steps) and steps[k][0] <= cut:
            inside += steps[k][1]
            k += 1
        if not inside:
            out.add(cut)
    return out


def _chain(cuts: set[int], graph: OpGraph) -> set[int]:
    """Cuts such that nothing carried crosses two of them: of several, the first one behind its producer."""
    cuts = set(cuts)
    ends, carried = graph.edge_ends.tolist(), carried_edges(graph)
    for k in sorted(range(len(ends)), key=lambda k: ends[k][0]):
        if carried[k]:
            src, dst = ends[k]
            crossed = sorted(c for c in cuts if src < c <= dst)
            cuts.difference_update(crossed[1:])
    return cuts
