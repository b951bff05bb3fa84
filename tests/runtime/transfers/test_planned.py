"""Transfers of a plan: complete, in an order in which both ends can post them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.cluster import cluster_from_dict
from drlpp.cost import place_stages
from drlpp.cost.stage_costs import stage_costs
from drlpp.errors import ScheduleError
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.plan import Action, Assignment, Plan, Provenance, Stage, parse_action
from drlpp.problem import PlanningProblem
from drlpp.runtime.transfers.planned import Slot, logical_times, plan_transfers, readers, stage_slots, writers
from drlpp.schedules import generate
from drlpp.schedules.orders import to_schedule
from drlpp.training import TrainingSetup

CLUSTER = cluster_from_dict(
    {
        "schema_version": 1,
        "name": "four",
        "device_types": {"cpu": {"speed": 1.0, "memory": "4GB"}},
        "hosts": [{"name": "h", "devices": ["cpu"] * 4, "link": {"bandwidth": "10GB/s", "latency": "5us"}}],
    }
)


def two_stage_plan(schedule: dict[int, list[str]], num_microbatches: int = 2) -> Plan:
    graph = chain_graph(2, tensor_bytes=8.0)
    return Plan(
        graph=graph,
        cluster=CLUSTER,
        training=TrainingSetup(num_microbatches=num_microbatches),
        stages=(
            Stage(index=0, ops=("op0",), replicas=((0,),)),
            Stage(index=1, ops=("op1",), replicas=((1,),)),
        ),
        schedule={r: tuple(map(parse_action, a)) for r, a in schedule.items()},
        schedule_name="hand",
        provenance=Provenance(planner="hand"),
    )


def test_chain() -> None:
    plan = two_stage_plan({0: ["0F0", "0F1", "0B0", "0B1"], 1: ["1F0", "1B0", "1F1", "1B1"]})
    transfers = plan_transfers(plan, plan.stage_graph.messages)
    shown = [(t.slot.content, t.microbatch, t.src, t.dst, t.produced_by, t.needed_by) for t in transfers]
    assert shown == [
        ("value", 0, 0, 1, 0, 0),
        ("value", 1, 0, 1, 1, 2),
        ("gradient", 0, 1, 0, 1, 2),
        ("gradient", 1, 1, 0, 3, 3),
    ]
    assert [t.order for t in transfers] == [t.tag for t in transfers] == [0, 1, 2, 3]
    assert logical_times(plan, transfers)[1, 3] == (7, 5)


def test_slots_of_split_backward() -> None:
    plan = two_stage_plan({0: ["0F0", "0I0", "0W0"], 1: ["1F0", "1I0", "1W0"]}, 1)
    first, second = stage_slots(plan.stage_graph.messages, 2)
    value, gradient = Slot(0, "value"), Slot(0, "gradient")
    assert first.writes(Action(0, "F", 0)) == second.reads(Action(1, "F", 0)) == (value,)
    assert first.reads(Action(0, "I", 0)) == second.writes(Action(1, "B", 0)) == (gradient,)
    assert first.reads(Action(0, "W", 0)) == first.writes(Action(0, "W", 0)) == ()
    assert readers(plan.stage_graph.messages, gradient) == writers(plan.stage_graph.messages, value) == (0,)


def test_deadlock() -> None:
    plan = two_stage_plan({0: ["0F0", "0B0", "0F1", "0B1"], 1: ["1F1", "1B1", "1F0", "1B0"]})
    with pytest.raises(ScheduleError, match=r"deadlocks: rank 0 waits at 0B0: list every action after"):
        plan_transfers(plan, plan.stage_graph.messages)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 14, branching=0.5, skips=0.3)
    labels = np.zeros(graph.num_ops, dtype=np.int64)
    for i, before in enumerate(graph.predecessors):
        labels[i] = min(4, max((labels[p] for p in before), default=0) + int(rng.random() < 0.4))
    devices = {s: tuple(rng.permutation(4)[: rng.integers(1, 4)].tolist()) for s in range(5)}
    assignment = Assignment.compact(labels, devices)
    problem = PlanningProblem.build(graph, CLUSTER, num_microbatches=draw(st.integers(1, 6)))
    costs = stage_costs(problem, assignment.stage_of_op, assignment.num_stages)
    name = draw(st.sampled_from(["gpipe", "list", "split-list"]))
    placed = place_stages(costs, CLUSTER, assignment.devices, problem.training.num_microbatches)
    schedule = to_schedule(generate(name, placed), placed.used)
    stages = tuple(
        Stage(
            index=s,
            ops=tuple(op.name for op, k in zip(graph.ops, assignment.stage_of_op, strict=True) if k == s),
            replicas=tuple((x,) for x in d),
        )
        for s, d in enumerate(assignment.devices)
    )
    return Plan(
        graph=graph,
        cluster=CLUSTER,
        training=problem.training,
        stages=stages,
        schedule=schedule,
        schedule_name=name,
        provenance=Provenance(planner="test"),
    )


@settings(max_examples=60, deadline=None)
@given(plans())
def test_posting_in_order_never_blocks(plan: Plan) -> None:
    """Executes the schedule with messages that only move when both ends have posted everything before them."""
    transfers = plan_transfers(plan, plan.stage_graph.messages)
    assert {t.tag for t in transfers} >= {0} or not transfers
    queues = defaultdict(list)
    for t in transfers:
        queues[frozenset((t.src, t.dst))].append(t)
    moved: set[int] = set()
    position = dict.fromkeys(plan.schedule, 0)
    progress = True
    while progress:
        progress = False
        for queue in queues.values():
            while queue and position[queue[0].src] > queue[0].produced_by:
                moved.add(queue.pop(0).order)
                progress = True
        for device, actions in plan.schedule.items():
            i = position[device]
            needs = [t.order for t in transfers if t.dst == device and t.needed_by == i]
            if i < len(actions) and all(n in moved for n in needs):
                position[device] += 1
                progress = True
    assert all(position[d] == len(a) for d, a in plan.schedule.items())
    assert len(moved) == len(transfers)
