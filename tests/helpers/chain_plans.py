"""A plan that is short enough to be written by hand."""

from __future__ import annotations

from drlpp.cluster import load_cluster
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Plan, Provenance, Stage, parse_action
from drlpp.plan.action import Schedule
from drlpp.training import TrainingSetup


def schedule(**ranks: str) -> Schedule:
    """``r0="0F0 0B0"`` -> the actions of rank 0."""
    return {int(r[1:]): tuple(parse_action(a) for a in actions.split()) for r, actions in ranks.items()}


def chain_plan() -> Plan:
    """Two stages on devices 0 and 1, two micro-batches, 1F1B."""
    return Plan(
        graph=chain_graph(4),
        cluster=load_cluster("local-2"),
        training=TrainingSetup(num_microbatches=2),
        stages=(
            Stage(index=0, ops=("op0", "op1"), replicas=((0,),)),
            Stage(index=1, ops=("op2", "op3"), replicas=((1,),)),
        ),
        schedule=schedule(r0="0F0 0F1 0B0 0B1", r1="1F0 1B0 1F1 1B1"),
        schedule_name="1f1b",
        provenance=Provenance(planner="by hand"),
    )
