"""A plan as a plain pipeline: a chain of stages, in equal data-parallel copies. That is what most engines can express.

Tensors that need no gradient (masks, position tables) may skip stages: engines make them anew on every stage.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection

from drlpp.errors import PlanError
from drlpp.graph.serving import carried_edges
from drlpp.plan import Action, Plan, Sharding

RUN_INSTEAD = "plan with --for ENGINE to stay within what the engine can do, or use `drlpp run`"
"""The way out for plans that an engine cannot express."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pipeline:
    """A chain of stages on pipeline ranks, each of as many devices as divide its ops.

    Attributes:
        groups: per data-parallel copy, the devices of each pipeline rank. Ranks are numbered by their first stage.
        rank_of_stage: the pipeline rank of each stage.
        actions: per pipeline rank, its actions in order; micro-batches are those of one copy, numbered from 0.
        num_microbatches: per copy and step.
    """

    groups: tuple[tuple[tuple[int, ...], ...], ...]
    rank_of_stage: tuple[int, ...]
    actions: tuple[tuple[Action, ...], ...]
    num_microbatches: int

    @property
    def copies(self) -> tuple[tuple[int, ...], ...]:
        """Per data-parallel copy, its devices: those of the first pipeline rank, then those of the next."""
        return tuple(tuple(itertools.chain(*ranks)) for ranks in self.groups)

    @property
    def num_copies(self) -> int:
        return len(self.groups)

    @property
    def num_ranks(self) -> int:
        return len(self.actions)

    @property
    def num_stages(self) -> int:
        return len(self.rank_of_stage)


def as_pipeline(plan: Plan, engine: str) -> Pipeline:
    """The pipeline that a legal plan is.

    Raises:
        PlanError: the plan has what a plain pipeline has not: a branch or skip connection, unequal replicas, copies
            that share devices or run in different orders, or backward operators of its own.
    """
    _check_chain(plan, engine)
    replicas = _equal_replicas(plan, engine)
    groups, rank_of_stage = _copies(plan, replicas, engine)
    orders = [_actions(plan, ranks, copy, replicas) for copy, ranks in enumerate(groups)]
    for copy, order in enumerate(orders[1:], start=1):
        if order != orders[0]:
            raise PlanError(
                f"{engine} runs all data-parallel copies in one order, but devices {_listed(groups[copy])} have "
                f"another order than devices {_listed(groups[0])}: {RUN_INSTEAD}"
            )
    return Pipeline(groups, rank_of_stage, orders[0], plan.num_microbatches // replicas)


def check_divisions(plan: Plan, engine: str, can: Collection[str] = ()) -> Sharding:
    """What the devices of every stage divide.

    Args:
        can: what the engine can do, of ``tp``: divide ops, ``sp``: what is kept between them, too, and ``zero1``:
            divide optimizer states.

    Raises:
        PlanError: the plan divides what the engine cannot, or stages differ.
    """
    sharding, shared = plan.stages[0].sharding, any(s.num_replicas > 1 for s in plan.stages)
    for stage in plan.stages:
        if stage.sharding.tensor > 1 and "tp" not in can:
            raise PlanError(
                f"{engine} cannot divide ops, but stage {stage.index} divides its ops over {stage.sharding.tensor} "
                f"devices: {RUN_INSTEAD}"
            )
        if stage.sharding.sequence and "sp" not in can:
            raise PlanError(
                f"{engine} keeps activations between divided ops whole, but stage {stage.index} divides them: "
                f"{RUN_INSTEAD}"
            )
        if stage.sharding != sharding:
            raise PlanError(
                f"{engine} divides all stages alike, but stage 0 has {_words(sharding)} and stage {stage.index} "
                f"{_words(stage.sharding)}: {RUN_INSTEAD}"
            )
    if plan.training.zero1 and "zero1" not in can and (shared or plan.stage_graph.tied):
        raise PlanError(
            f"{engine} cannot divide optimizer states among replicas, but the plan does (ZeRO-1): {RUN_INSTEAD}"
        )
    return sharding


def _words(sharding: Sharding) -> str:
    return f"tensor-parallel degree {sharding.tensor} {'with' if sharding.sequence else 'without'} sequence parallelism"


def check_no_tied_parameters(plan: Plan, engine: str) -> None:
    """Raises PlanError if two stages share a trained parameter."""
    if tied := plan.stage_graph.tied_trained:
        stages = tied[0]
        raise PlanError(
            f"{engine} does not sum the gradients of shared parameters, but stages {', '.join(map(str, stages))} share "
            f"some (tied weights): {RUN_INSTEAD}, or untie them"
        )


def check_looped(pipeline: Pipeline, engine: str) -> None:
    """Raises PlanError unless stage i is on pipeline rank i modulo the number of ranks."""
    for stage, rank in enumerate(pipeline.rank_of_stage):
        if rank != stage % pipeline.num_ranks:
            raise PlanError(
                f"{engine} puts stage i on pipeline rank i mod {pipeline.num_ranks}, but stage {stage} is on rank "
                f"{rank} (device {pipeline.groups[0][rank][0]}): {RUN_INSTEAD}"
            )
    if pipeline.num_stages % pipeline.num_ranks:
        raise PlanError(
            f"{engine} wants as many stages on every rank, but {pipeline.num_stages} stages are on "
            f"{pipeline.num_ranks} ranks: {RUN_INSTEAD}"
        )


def recomputing_stages(plan: Plan) -> list[int]:
    """Indices of the stages that recompute."""
    return [s.index for s in plan.stages if s.settings.recompute]


def recompute_everywhere(plan: Plan, engine: str) -> bool:
    """Whether all stages recompute. Raises PlanError if only some do."""
    some = recomputing_stages(plan)
    if len(some) not in (0, plan.num_stages):
        raise PlanError(
            f"{engine} recomputes in all stages or in none, but the plan in stages {some} only: {RUN_INSTEAD}"
        )
    return bool(some)


def _check_chain(plan: Plan, engine: str) -> None:
    carried = {e.tensor for e, yes in zip(plan.graph.edges, carried_edges(plan.graph), strict=True) if yes}
    serves = not any(e.requires_grad for e in plan.graph.edges)
    for message in plan.stage_graph.messages:
        if message.phase == "backward":
            raise PlanError(
                f"{engine} derives the backward pass itself, but the graph {plan.graph.name!r} lists its own backward "
                "operators: plan a captured model instead of this profile"
            )
        far = [d for d in message.dsts if d != message.src + 1]
        if far and (message.requires_grad or (serves and carried.intersection(message.tensors))):
            raise PlanError(
                f"{engine} sends a stage's output to the next stage only, but stage {message.src} sends "
                f"{message.tensors[0]!r} to stage {far[0]} (a branch or a skip connection): {RUN_INSTEAD}"
            )


def _equal_replicas(plan: Plan, engine: str) -> int:
    counts = [s.num_replicas for s in plan.stages]
    if len(set(counts)) > 1:
        other = next(i for i, n in enumerate(counts) if n != counts[0])
        raise PlanError(
            f"{engine} replicates all stages alike, but stage 0 has {counts[0]} replicas and stage {other} "
            f"{counts[other]} (unequal replicas): {RUN_INSTEAD}"
        )
    for stage in plan.stages:
        if stage.settings.shares:
            raise PlanError(
                f"{engine} gives all replicas as many micro-batches, but stage {stage.index} gives its own the shares "
                f"{list(stage.settings.shares)}: {RUN_INSTEAD}"
            )
    if plan.num_microbatches % counts[0]:
        raise PlanError(
            f"{engine} gives each of {counts[0]} data-parallel copies as many micro-batches, but there are "
            f"{plan.num_microbatches}: plan with a multiple of {counts[0]}"
        )
    return counts[0]


def _copies(plan: Plan, replicas: int, engine: str) -> tuple[tuple[tuple[tuple[int, ...], ...], ...], tuple[int, ...]]:
    groups: list[tuple[tuple[int, ...], ...]] = []
    ranks: list[tuple[int, ...]] = []
    for copy in range(replicas):
        of_stages = [s.replicas[copy] for s in plan.stages]
        order = tuple(dict.fromkeys(of_stages))
        groups.append(order)
        ranks.append(tuple(order.index(group) for group in of_stages))
    if len({group for copy in groups for group in copy}) < sum(map(len, groups)) or len(set(ranks)) > 1:
        raise PlanError(
            f"{engine} keeps data-parallel copies apart, but the copies of this plan are on devices "
            f"{', '.join(map(_listed, groups))} and share some or place stages differently: {RUN_INSTEAD}"
        )
    return tuple(groups), ranks[0]


def _listed(groups: tuple[tuple[int, ...], ...]) -> str:
    return str(list(itertools.chain(*groups)))


def _actions(
    plan: Plan, ranks: tuple[tuple[int, ...], ...], copy: int, replicas: int
) -> tuple[tuple[Action, ...], ...]:
    return tuple(
        tuple(
            Action(a.stage, a.kind, a.microbatch // replicas)
            for a in plan.schedule[group[0]]
            if a.microbatch % replicas == copy
        )
        for group in ranks
    )
