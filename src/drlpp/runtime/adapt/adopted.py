"""The plan that a run took last, beside its checkpoints: whoever goes on from these takes it too."""

from __future__ import annotations

from pathlib import Path

from drlpp.cluster import Cluster
from drlpp.graph import OpGraph
from drlpp.plan import Plan, load_plan, save_plan


def adopted_file(folder: Path) -> Path:
    """Where a run with checkpoints in a folder leaves the plan that took over last."""
    return folder / "plan.json"


def record_adopted(folder: Path, plan: Plan) -> None:
    """Writes a plan that took over; called on one rank."""
    folder.mkdir(parents=True, exist_ok=True)
    save_plan(plan, adopted_file(folder))


def adopted_plan(folder: Path, asked: Plan, cluster: Cluster | None = None) -> Plan | None:
    """The plan that took over last, if it is one of the same ops, training set-up and devices as that asked for.

    Its costs may be others: those that the run measured.

    Args:
        cluster: whose devices it should have; None for those of the plan that is asked for.
    """
    if not adopted_file(folder).exists():
        return None
    plan = load_plan(adopted_file(folder))
    same = _model(plan.graph) == _model(asked.graph) and plan.training == asked.training
    return plan if same and _places(plan.cluster) == _places(cluster or asked.cluster) else None


def _model(graph: OpGraph) -> tuple[object, ...]:
    """What stays of a model when its costs are measured."""
    return graph.source, graph.samples_per_microbatch, graph.param_bytes, [op.name for op in graph.ops]


def _places(cluster: Cluster) -> list[tuple[str, int]]:
    return [(host.name, len(host.devices)) for host in cluster.hosts]
