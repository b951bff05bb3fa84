"""A small model with branches, and plans of it made by hand."""

from __future__ import annotations

import dataclasses

import numpy as np

from drlpp.graph import REFERENCE, Edge, Op, OpGraph, OpTimes
from drlpp.plan import Assignment, Plan, Provenance
from drlpp.plan.settings import of_columns
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator


@dataclasses.dataclass(frozen=True)
class Bound:
    value_s: float
    kind: str = "work over all devices"


def two_branches() -> OpGraph:
    """stem -> two branches of two convolutions -> head; the head adds a loss without a module."""
    rows = [
        ("stem", "stem.conv", []),
        ("left0", "blocks.0.conv", ["stem"]),
        ("left1", "blocks.1.conv", ["left0"]),
        ("right0", "side.conv1", ["stem"]),
        ("right1", "side.conv2", ["right0"]),
        ("join", "head", ["left1", "right1"]),
        ("fc", "head.fc", ["join"]),
        ("loss", "", ["fc"]),
    ]
    ops = tuple(
        Op(
            name=name,
            kind="conv" if module else "loss",
            module=module,
            params=(f"{module}.weight",) if module else (),
            saved=(name,),
            output_bytes=1e6,
            times={REFERENCE: OpTimes(2e-3, 2e-3, 2e-3)},
        )
        for name, module, _ in rows
    )
    edges = tuple(Edge(src=i, dst=name, tensor=i) for name, _, inputs in rows for i in inputs)
    return OpGraph(
        name="two_branches",
        ops=ops,
        edges=edges,
        tensor_bytes={name: 1e6 for name, _, _ in rows},
        param_bytes={f"{module}.weight": 4e6 for _, module, _ in rows if module},
        source="timm:two_branches",
        samples_per_microbatch=4,
    )


def make_plan(
    problem: PlanningProblem, labels: list[int], devices: list[tuple[int, ...]], planner: str, **columns: object
) -> Plan:
    """Args: columns: lists of a setting of all stages."""
    assignment = Assignment(np.array(labels), tuple(devices), of_columns(columns))
    return Evaluator(problem).make_plan(assignment, Provenance(planner=planner, seed=3, budget_s=30.0, version="0.1"))
