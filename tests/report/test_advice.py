from __future__ import annotations

import dataclasses

from drlpp.cluster import cluster_from_dict
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Plan
from drlpp.problem import PlanningProblem
from drlpp.report.advice import bottleneck_sentences, change_rows, helpful_changes
from drlpp.sim import Change, explain, simulate
from hand_plans import make_plan


def chain(
    labels: list[int], num_microbatches: int, *, network: str = "100GB/s", megabytes: float = 0.0, memory: str = "16GB"
) -> Plan:
    """A chain of equal ops on devices 0, 1, ..., two on each host."""
    host = {"name": "h", "count": 2, "devices": ["d", "d"]}
    host |= {"link": {"bandwidth": "100GB/s"}, "network": {"bandwidth": network}}
    types = {"d": {"speed": 1.0, "memory": memory}}
    cluster = cluster_from_dict({"schema_version": 1, "name": "c", "device_types": types, "hosts": [host]})
    graph = chain_graph(len(labels), tensor_bytes=megabytes * 1e6)
    problem = PlanningProblem.build(graph, cluster, num_microbatches=num_microbatches)
    return make_plan(problem, labels, [(s,) for s in range(max(labels) + 1)], "hand")


def sentences(plan: Plan) -> list[str]:
    return bottleneck_sentences(plan, explain(simulate(plan)))


def test_a_device_with_too_much_work():
    plan = chain([0, 0, 0, 1], 32)
    first, path, *changes = sentences(plan)
    assert first.startswith("The bottleneck is device #0 (d, stage 0): busy 100% of the time")
    assert "computing on #0" in path
    assert changes[0].startswith("In the plan, op 'op2' in stage 1 instead of 0 would help most: ")
    rows = change_rows(explain(simulate(plan)))
    assert rows[0]["fits"]
    assert all(row["saved"].startswith("+") for row in rows)


def test_a_slow_port_between_hosts():
    text = " ".join(sentences(chain([0, 0, 1, 1, 2, 2], 32, network="100MB/s", megabytes=2.0)))
    assert "The bottleneck is the network port of host h" in text
    assert "Of the hardware, twice the bandwidth between hosts would help most" in text


def test_names_of_links_and_all_reduces():
    plan = chain([0, 1], 8)
    explanation = explain(simulate(plan))
    link = dataclasses.replace(explanation, bottleneck="link 0->1")
    assert "The bottleneck is the link from device #0 to #1:" in bottleneck_sentences(plan, link)[0]
    reduce = dataclasses.replace(explanation, bottleneck="all-reduce on device 1")
    assert "The bottleneck is the all-reduce on device #1:" in bottleneck_sentences(plan, reduce)[0]


def test_nothing_helps():
    plan = chain([0, 1], 8)
    explanation = dataclasses.replace(explain(simulate(plan)), changes=())
    assert "None of the 0 single changes" in bottleneck_sentences(plan, explanation)[-1]
    assert change_rows(explanation) == []


def test_changes_that_make_a_plan_fit_come_first():
    plan = chain([0, 0, 0, 1], 8, megabytes=10.0, memory="25MB")
    explanation = explain(simulate(plan))
    assert explanation.over_memory
    assert helpful_changes(explanation)
    over = explanation.over_memory[0][1]
    fits = Change("plan", "recomputation", explanation.iteration_time_s * 2, 0.0, -explanation.iteration_time_s)
    less = Change("plan", "less of it", explanation.iteration_time_s, over / 2, 0.0)
    more = Change("plan", "more of it", explanation.iteration_time_s / 2, over * 2, explanation.iteration_time_s / 2)
    made = dataclasses.replace(explanation, changes=(fits, less, more))
    assert helpful_changes(made) == [fits, less]
    assert [row["fits"] for row in change_rows(made)] == [True, False]
    assert "recomputation would help most: the plan would fit, in" in bottleneck_sentences(plan, made)[-1]
    half = bottleneck_sentences(plan, dataclasses.replace(made, changes=(less,)))[-1]
    assert "too much memory instead of more" in half


def test_no_costs():
    graph = chain_graph(2, forward_s=0.0)
    host = {"name": "h", "devices": ["d", "d"], "link": {"bandwidth": 1e30}}
    types = {"d": {"speed": 1.0, "memory": "1GB"}}
    cluster = cluster_from_dict({"schema_version": 1, "name": "c", "device_types": types, "hosts": [host]})
    plan = make_plan(PlanningProblem.build(graph, cluster), [0, 1], [(0,), (1,)], "hand")
    assert sentences(plan) == ["The plan takes no time: its graph has no costs."]
