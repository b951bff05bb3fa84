"""A plan in whole layers: for engines that split a model between the entries of its list of layers.

The list may be the model itself (``nn.Sequential``); its path is then empty. A *unit* is what such an engine moves as a
whole: an entry of the list of layers (``model.layers.3``), or a module beside the list (``model.embed_tokens``,
``lm_head``). Ops outside all units (glue in the forward functions of the modules around the list, functions of the
loss) have no place of their own in these engines and are left out.
"""

from __future__ import annotations

import dataclasses

from drlpp.errors import PlanError
from drlpp.export.pipelines import RUN_INSTEAD
from drlpp.graph import OpGraph
from drlpp.plan import Plan
from drlpp.plan.modules import is_entry, layer_list, module_owners, unit_around


@dataclasses.dataclass(frozen=True, slots=True)
class LayeredPlan:
    """Units in order of execution, and their stages.

    Attributes:
        layers: path of the list of layers; empty for the model itself.
        units: paths; entries of the list are ``layers.N``, or ``N``.
        stages: the stage of each unit; never decreasing.
    """

    layers: str
    units: tuple[str, ...]
    stages: tuple[int, ...]

    @property
    def list_name(self) -> str:
        """The list, for people."""
        return self.layers or "the model"

    def is_layer(self, unit: str) -> bool:
        """The unit is an entry of the list."""
        return is_entry(unit, self.layers)

    def layers_per_stage(self, num_stages: int) -> list[int]:
        """Entries of the list in each stage."""
        out = [0] * num_stages
        for unit, stage in zip(self.units, self.stages, strict=True):
            out[stage] += self.is_layer(unit)
        return out


def layered(plan: Plan, engine: str) -> LayeredPlan:
    """The plan in whole layers.

    Raises:
        PlanError: the model has no list of layers, a unit is split between stages, or units are out of order.
    """
    layers = find_layer_list(plan.graph, engine)
    labels = plan.stage_of_op.tolist()
    owners = module_owners(plan.graph, labels)
    units = [unit for op in plan.graph.ops if (unit := unit_around(op.module, layers))]
    units = list(dict.fromkeys(units))
    stages: list[int] = []
    for unit in units:
        stage = owners[unit]
        if stage is None:
            raise PlanError(f"{engine} keeps {unit!r} whole, but the plan splits it between stages: {RUN_INSTEAD}")
        if stages and stage < stages[-1]:
            raise PlanError(
                f"{engine} runs modules in order, but {unit!r} is in stage {stage} and {units[len(stages) - 1]!r} "
                f"before it in stage {stages[-1]}: {RUN_INSTEAD}"
            )
        stages.append(stage)
    return LayeredPlan(layers, tuple(units), tuple(stages))


def check_ends(plan: LayeredPlan, num_stages: int, engine: str) -> None:
    """Raises PlanError unless all before the layers is in the first stage and all after them in the last."""
    entries = [i for i, unit in enumerate(plan.units) if plan.is_layer(unit)]
    for i, (unit, stage) in enumerate(zip(plan.units, plan.stages, strict=True)):
        if not plan.is_layer(unit):
            place = 0 if i < entries[0] else num_stages - 1
            if stage != place:
                raise PlanError(
                    f"{engine} divides only the entries of {plan.list_name} and keeps {unit!r} in stage {place}, but "
                    f"the plan has it in stage {stage}: {RUN_INSTEAD}"
                )


def find_layer_list(graph: OpGraph, engine: str) -> str:
    """`plan.modules.layer_list`. Raises PlanError if there is none."""
    layers = layer_list(graph)
    if layers is None:
        raise PlanError(
            f"{engine} splits a model between the entries of a list of layers, but graph {graph.name!r} names no such "
            f"list (modules like 'layers.0', 'layers.1'): {RUN_INSTEAD}"
        )
    return layers
