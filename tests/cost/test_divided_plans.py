"""Plans with groups on clusters that they do not know: the choice of splits stays, the price is that of the cluster."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, Link
from drlpp.cost.divided_plans import divided
from drlpp.cost.problem_times import problem_times
from drlpp.cost.shared_graphs import shared_graph
from drlpp.errors import ClusterError, InputError
from drlpp.graph.generate.transformers import Transformer, transformer_graph
from drlpp.plan import Plan
from plan_cases import make_plan

GRAPH = transformer_graph(Transformer(layers=2, hidden=1024, heads=8, ffn=4096, seq=512, batch=1, vocab=8000))
HALF = GRAPH.num_ops // 2
STAGES = [i // HALF if i < 2 * HALF else 1 for i in range(GRAPH.num_ops)]


def plan_of(*devices: list[int | tuple[int, ...]], num_devices: int = 4) -> Plan:
    stages = STAGES if len(devices) == 2 else [0] * GRAPH.num_ops
    return make_plan(GRAPH, stages, devices, num_microbatches=4, num_devices=num_devices)


def other(cluster: Cluster, types: list[str], bandwidth: float) -> Cluster:
    """The cluster with devices of these types, the first twice as fast as it was, and other links inside hosts."""
    old = cluster.device_types[0]
    kinds = tuple(
        dataclasses.replace(old, name=name, speed=2.0 / (i + 1), speed_is_given=True)
        for i, name in enumerate(dict.fromkeys(types))
    )
    names = iter(types)
    hosts = tuple(
        dataclasses.replace(h, devices=tuple(next(names) for _ in h.devices), link=Link(bandwidth=bandwidth))
        for h in cluster.hosts
    )
    return Cluster("other", kinds, hosts)


def test_the_choice_stays_and_the_price_is_that_of_the_cluster() -> None:
    plan = plan_of([(0, 1)], [(2, 3)])
    here = divided(plan)
    there = divided(plan, other(plan.cluster, ["cpu"] * 4, 1e8))
    groups = [made.plan.cluster.devices[0].type.group for made in (here, there)]
    before, after = (shared_graph(made.problem, g) for made, g in zip((here, there), groups, strict=True) if g)
    assert before.choice == after.choice
    assert any(k >= 0 for k in before.choice)
    assert there.own_s() == pytest.approx(here.own_s() / 2)
    wire, latency, rest = here.inside_parts()
    assert wire + latency + rest == pytest.approx(here.inside_s())
    assert np.all(latency >= 0)
    assert there.inside_s() == pytest.approx(wire * (plan.cluster.path(0, 1).bandwidth / 1e8))
    whole = problem_times(there.problem)
    assert there.costs.forward_s[0, 0] == pytest.approx(whole.forward_s[0][there.plan.stage_of_op == 0].sum())


def test_a_plan_without_groups_is_itself() -> None:
    plan = plan_of([0, 2], [1])
    made = divided(plan)
    assert made.plan is plan
    assert not made.inside_s().any()
    assert made.group_of == {d: d for d in range(4)}
    slow = other(plan.cluster, ["cpu", "slow", "cpu", "cpu"], 1e9)
    assert divided(plan, slow).costs.forward_s[1, 1] == pytest.approx(made.costs.forward_s[1, 1])


def test_what_cannot_be_priced() -> None:
    plan = plan_of([(0, 1)], [(2, 3)])
    with pytest.raises(ClusterError, match=r"group \[0, 1\]: its devices are of the types cpu, slow"):
        divided(plan, other(plan.cluster, ["cpu", "slow", "cpu", "cpu"], 1e9))
    unequal = other(plan.cluster, ["cpu", "cpu", "slow", "slow"], 1e9)
    kinds = (unequal.device_types[0], dataclasses.replace(unequal.device_types[1], speed=1e-4))
    believed = dataclasses.replace(plan, cluster=dataclasses.replace(unequal, device_types=kinds))
    with pytest.raises(InputError, match="groups 0 and 1 are alike on cluster 'other' and divide ops in two ways"):
        divided(believed, other(plan.cluster, ["cpu"] * 4, 1e9))
