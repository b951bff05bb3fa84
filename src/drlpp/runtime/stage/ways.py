"""Which calls of a captured model are divided, and how, by the plan; and how parameters are held then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import torch
import torch.distributed as dist
from torch import fx

from drlpp.capture import CapturedModel
from drlpp.capture.cuts import Cut
from drlpp.capture.split_rules import is_random
from drlpp.capture.splitting import OpDivision, Splitter
from drlpp.cost.groups import for_groups
from drlpp.cost.shared_graphs import shared_graph
from drlpp.errors import PlanError
from drlpp.graph import Split
from drlpp.plan import Plan
from drlpp.problem import PlanningProblem
from drlpp.runtime.stage.division import Ways, fits
from drlpp.runtime.stage.moves import Placement
from drlpp.runtime.stage.stage_module import depending_values

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def chosen_splits(plan: Plan) -> Mapping[str, Split]:
    """Op -> split, of the ops that the groups of a plan divide: the choice that the plan's price was made with.

    Raises:
        InputError: the plan's graph says of no op how it may be divided.
    """
    of_groups = for_groups(plan)
    problem = PlanningProblem(plan.graph, of_groups.cluster, plan.training)
    found = {}
    for stage in of_groups.stages:
        group = of_groups.cluster.devices[stage.devices[0]].type.group
        if group is None:
            continue
        chosen = shared_graph(problem, group).choice
        for name in stage.ops:
            op = plan.graph.index[name]
            if chosen[op] >= 0:
                found[name] = plan.graph.ops[op].splits[chosen[op]]
    return found


def divisible_on(
    device: torch.device, chosen: Mapping[str, Split], captured: CapturedModel, plan: Plan
) -> Mapping[str, Split]:
    """The splits without those of attention with dropout on a GPU, whose kernel draws numbers that no part can repeat.

    Every member computes such an op whole there.
    """
    if device.type == "cpu":
        return chosen
    whole = {n.name for n in captured.module.graph.nodes if n.target is _ATTENTION and is_random(n)}
    return {op: split for op, split in chosen.items() if whole.isdisjoint(plan.graph.ops[plan.graph.index[op]].members)}


def check_agreed(chosen: Mapping[str, Split], plan: Plan) -> None:
    """Raises PlanError on every rank if the ranks chose other splits. Called on every rank."""
    if all(stage.sharding.tensor == 1 for stage in plan.stages):
        return
    mine = {name: (s.axis, sorted(s.reads), sorted(s.gives)) for name, s in chosen.items()}
    told = [mine] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    for rank, theirs in enumerate(told):
        if theirs != told[0]:
            odd = min(n for n in {*theirs, *told[0]} if theirs.get(n) != told[0].get(n))
            raise PlanError(
                f"rank {rank} would divide op {odd!r} in another way than rank 0: install the same releases of drlpp, "
                "torch and scipy on every host"
            )


def ways_of(captured: CapturedModel, plan: Plan, chosen: Mapping[str, Split]) -> Ways:
    """How the calls of a captured model are divided.

    A form of the model with other shapes divides the same ops, as far as its shapes have equal parts.

    Args:
        captured: the model, or a form of it.
        plan: for the model.
        chosen: op -> split, of the ops that are divided.

    Raises:
        PlanError: the model has no such split.
    """
    nodes = {n.name: n for n in captured.module.graph.nodes}
    learns = depending_values(captured)
    samples = next((int(t.shape[0]) for t in captured.example_inputs.values() if t.dim() and t.shape[0]), 1)
    splitter = Splitter(captured.module.graph, learns, samples)
    reads: dict[str, Mapping[fx.Node, Cut]] = {}
    gives: dict[str, Placement] = {}
    for stage in plan.stages:
        for op in stage.ops if stage.sharding.tensor > 1 else ():
            if op in chosen:
                group = [nodes[m] for m in plan.graph.ops[plan.graph.index[op]].members]
                division = _division(splitter, op, group, chosen[op])
                if _fits(division, stage.sharding.tensor):
                    reads.update({n.name: cuts for n, cuts in division.reads.items()})
                    gives.update({n.name: division.gives[n] for n in division.reads})
    return Ways(reads, gives)


def placed_parameters(
    captured: CapturedModel, stage_of: Mapping[str, int], plan: Plan, ways: Ways
) -> tuple[Mapping[str, Cut], Collection[str]]:
    """Parameter -> cut, of those that the members of a group have parts of; and those that have partial gradients."""
    wanted: dict[str, list[tuple[int, Cut | None, bool]]] = defaultdict(list)
    for node in captured.module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in captured.parameters:
            for user in node.users:
                if user.name in stage_of:
                    size = plan.stages[stage_of[user.name]].sharding.tensor
                    cut = ways.reads.get(user.name, {}).get(node)
                    wanted[str(node.target)].append((size, cut, user.name in ways.reads))
    cuts: dict[str, Cut] = {}
    partial = set()
    for name, readers in wanted.items():
        cut = readers[0][1]
        if cut is not None and all(reader == readers[0] for reader in readers):
            cuts[name] = cut
        elif any(divided for _, _, divided in readers) or len({size for size, _, _ in readers}) > 1:
            partial.add(name)
    return cuts, partial


def _division(splitter: Splitter, op: str, group: list[fx.Node], split: Split) -> OpDivision:
    found = splitter.divisions(group)
    for same in (_exactly, _but_for_lengths):
        for division in found:
            if same(division.split) == same(split):
                return division
    raise PlanError(
        f"the plan divides op {op!r} along {split.axis!r}, which the model as it is captured now does not allow: the "
        "model or a library changed since the plan was made; plan again"
    )


def _exactly(split: Split) -> object:
    return split.axis, frozenset(split.reads), frozenset(split.gives)


def _but_for_lengths(split: Split) -> object:
    parts = (split.reads, split.gives)
    return split.axis, *(frozenset((p.tensor, p.dim, len(p.sections)) for p in each) for each in parts)


def _fits(division: OpDivision, count: int) -> bool:
    placed = [(x, cut) for reads in division.reads.values() for x, cut in reads.items()] + list(division.gives.items())
    return all(fits(v.shape, cut, count) for x, cut in placed if isinstance(v := x.meta.get("val"), torch.Tensor))
