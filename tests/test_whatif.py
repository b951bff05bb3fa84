"""What-if: the changes that are looked at, and that their ranking makes sense."""

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link, load_cluster
from drlpp.cluster.grouping import Grouping
from drlpp.cost.groups import grouped, lifted
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.plan import Assignment, Provenance, StageSettings
from drlpp.planners.base import PlanResult, no_progress
from drlpp.planners.registry import get_planner
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from drlpp.solving import solve
from drlpp.training import TrainingSetup
from drlpp.whatif import _carried, changes, what_if
from random_groups import with_splits


def cluster(memory=10**10, network=1e9):
    types = (
        DeviceType(name="fast", memory_bytes=memory, speed=2.0),
        DeviceType(name="slow", memory_bytes=memory, speed=1.0),
    )
    port = Link(bandwidth=network, latency_s=1e-5)
    hosts = (
        Host(name="a", devices=("fast", "fast"), link=Link(bandwidth=1e10), network=port),
        Host(name="b", devices=("slow",), network=port),
    )
    return Cluster("c", types, hosts)


def problem(tensor_bytes=1e5, **options):
    graph = chain_graph(12, forward_s=2e-3, tensor_bytes=tensor_bytes, param_bytes=1e6)
    return PlanningProblem.build(graph, cluster(**options), num_microbatches=8)


def by_name(p):
    return {c.name: c for c in changes(p)}


def test_the_changes_of_a_small_cluster():
    assert list(by_name(problem())) == [
        "one more fast on host a",
        "one more slow on host b",
        "1 fast in place of the slow",
        "10 instead of 8 Gbit/s network",
        "20 GB/s instead of 10 GB/s inside host a",
        "twice the memory on each slow (20 GB)",
        "twice the memory on each fast (20 GB)",
        "twice the micro-batches (16)",
        "half the micro-batches (4)",
        "micro-batches of 2 instead of 1 samples",
        "with ZeRO-1",
        "without device 2 (slow of host b, one of the slowest)",
    ]


def test_changes_change_what_they_say():
    p = problem()
    found = by_name(p)
    more = found["one more fast on host a"]
    assert more.problem.cluster.hosts[0].devices == ("fast", "fast", "fast")
    assert more.device == {0: 0, 1: 1, 2: 3}
    more = found["one more slow on host b"]
    assert more.problem.cluster.hosts[1].link == p.cluster.hosts[0].link  # joined as elsewhere
    assert found["1 fast in place of the slow"].problem.cluster.hosts[1].devices == ("fast",)
    ports = {h.network.bandwidth for h in found["10 instead of 8 Gbit/s network"].problem.cluster.hosts}
    assert ports == {1.25e9}
    memory = found["twice the memory on each slow (20 GB)"].problem.cluster
    assert memory.memory_bytes.tolist() == [1e10, 1e10, 2e10]
    gone = found["without device 2 (slow of host b, one of the slowest)"]
    assert gone.problem.cluster.num_devices == 2
    assert gone.device == {0: 0, 1: 1}
    assert found["half the micro-batches (4)"].problem.training.num_microbatches == 4
    assert "from 8 to 4 samples" in found["half the micro-batches (4)"].caveat


def test_equal_hosts_count_once():
    p = PlanningProblem.build(chain_graph(4), load_cluster("paper-4x4-10gbe"))
    assert [c.name for c in changes(p) if c.kind == "device"] == ["one more v100 on host host0"]


def test_one_device_has_nothing_to_take_away_and_no_network():
    alone = Cluster("one", (DeviceType(name="t", memory_bytes=10**9),), (Host(name="a", devices=("t",)),))
    p = PlanningProblem.build(chain_graph(4), alone, num_microbatches=1)
    assert [c.kind for c in changes(p)] == ["memory", "micro-batches"]


def test_links_do_not_matter_where_the_graph_has_transfer_times():
    p = problem()
    edges = tuple(dataclasses.replace(e, transfer_s=1e-3) for e in p.graph.edges)
    p = dataclasses.replace(p, graph=dataclasses.replace(p.graph, edges=edges))
    assert not {"network", "link"} & {c.kind for c in changes(p)}


def test_the_steady_state_has_no_micro_batches():
    assert "micro-batches" not in {c.kind for c in changes(dataclasses.replace(problem(), objective="steady-state"))}


def gains(p, planner="dp", **options):
    today, outcomes = what_if(p, get_planner(planner), budget_s=0.2, **options)
    return today, {o.change: o for o in outcomes}


@pytest.mark.parametrize("objective", ["iteration-time", "steady-state"])
def test_more_is_never_less_and_less_is_never_more(objective):
    p = dataclasses.replace(problem(), objective=objective)
    today, found = gains(p)
    assert today.status == "ok"
    for o in found.values():
        assert o.status == "ok"
        assert o.gain == pytest.approx(o.throughput_samples_per_s / today.throughput_samples_per_s - 1)
        if o.kind == "remove":
            assert o.gain <= 1e-9
        elif o.kind != "micro-batches":
            assert o.gain >= -1e-9
    assert found["1 fast in place of the slow"].gain > 0.1
    assert found["twice the memory on each slow (20 GB)"].gain == pytest.approx(0, abs=1e-9)


def test_a_network_that_limits_is_the_first_to_change():
    _, found = gains(problem(tensor_bytes=3e6, network=1.25e8))
    ranked = [o.kind for o in found.values() if o.kind in ("network", "memory", "link", "remove")]
    assert ranked[0] == "network"


def test_ranking_is_by_throughput_and_noise_of_a_bad_search_does_not_show():
    graph = random_graph(np.random.default_rng(3), 20, measured=True)
    p = PlanningProblem.build(graph, cluster(), num_microbatches=8)
    _, found = gains(p, "random", seed=1)
    speeds = [o.throughput_samples_per_s for o in found.values()]
    assert speeds == sorted(speeds, reverse=True)
    assert all(o.gain >= -1e-9 for o in found.values() if o.kind not in ("remove", "micro-batches"))
    assert all(o.gain <= 1e-9 for o in found.values() if o.kind == "remove")


def test_when_nothing_fits_today_what_makes_it_fit_comes_first():
    p = problem(memory=10**7)
    today, found = gains(p)
    assert today.status == "infeasible"
    assert today.reason
    assert all(o.gain is None for o in found.values())
    status = [o.status for o in found.values()]
    assert found["twice the memory on each fast (20 MB)"].status == "ok"
    assert status == sorted(status, key=lambda s: s != "ok")
    assert "infeasible" in status


def test_stopping_keeps_what_is_done():
    seen = []
    today, found = gains(problem(), progress=lambda message, *_: seen.append(message), stop=lambda: len(seen) >= 3)
    assert today.status == "ok"
    assert len(found) == 2
    assert seen[0] == "as it is"


def test_failures_are_rows():
    class Broken:
        name = summary = "broken"

        def solve(self, problem, budget, seed, progress=no_progress):
            return PlanResult(planner="broken", status="failed", plan=None, planning_time_s=0.0, reason="why")

    today, outcomes = what_if(problem(), Broken(), budget_s=0.1)
    assert {o.status for o in (today, *outcomes)} == {"failed"}
    assert outcomes[0].to_dict()["reason"] == "why"


def grouped_problem(parallelism):
    """Ops with splits on two hosts of two devices."""
    rng = np.random.default_rng(3)
    graph = with_splits(rng, random_graph(rng, 6, measured=True))
    types = (DeviceType(name="t", memory_bytes=10**12),)
    link = Link(bandwidth=1e10)
    hosts = tuple(Host(name=name, devices=("t", "t"), link=link, network=link) for name in "ab")
    p = PlanningProblem.build(graph, Cluster("two", types, hosts), num_microbatches=4)
    return p.with_parallelism(parallelism)


def test_what_a_plan_may_use_is_a_change():
    names = by_name(grouped_problem(("pp", "dp", "tp", "zero1")))
    assert names["without tensor parallelism"].problem.space.parallelism == {"pp", "dp", "zero1"}
    assert not names["without ZeRO-1"].problem.training.zero1
    names = by_name(grouped_problem(("pp", "dp")))
    assert names["with tensor parallelism"].problem.space.parallelism == {"pp", "dp", "tp", "sp"}
    assert names["with ZeRO-1"].problem.training.zero1
    assert names["twice the micro-batches (8)"].problem.training == TrainingSetup(num_microbatches=8)


def test_each_size_of_groups_is_a_change_where_groups_are_searched():
    p = grouped_problem(("pp", "dp", "tp", "zero1"))
    names = by_name(p)
    changed = names["tensor parallelism 2 everywhere"].problem
    assert "tensor parallelism 4 everywhere" not in names
    assert "tensor parallelism 2 everywhere" not in by_name(grouped_problem(("pp", "dp")))
    plan = solve(changed, "uniform", budget=1.0).plan
    assert {stage.sharding.tensor for stage in plan.stages} == {2}
    everywhere = {d: d for d in range(4)}
    assert _carried(plan, everywhere, p) is not None
    alone = solve(p.with_parallelism(("pp", "dp")), "uniform", budget=1.0).plan
    assert _carried(alone, everywhere, changed) is None
    assert changed.with_parallelism(("pp", "dp")).space.tensor == 0


def test_the_size_of_micro_batches_is_a_change_where_the_costs_grow_with_the_samples():
    p = problem()
    assert p.graph.samples_per_microbatch == 1
    twice = by_name(p)["micro-batches of 2 instead of 1 samples"].problem
    assert (twice.global_batch, twice.training.num_microbatches) == (p.global_batch, 4)
    fixed = dataclasses.replace(p, graph=dataclasses.replace(p.graph, batch_axis="none"))
    assert "micro-batches of 2 instead of 1 samples" not in by_name(fixed)


def test_plans_with_groups_are_carried_to_other_devices():
    p = grouped_problem(("pp", "dp", "tp"))
    grouping = Grouping(((0, 1), (2, 3)))
    evaluator = Evaluator(grouped(p, grouping, sequence=False))
    assignment = Assignment(np.zeros(p.graph.num_ops, dtype=np.int64), ((0, 1),))
    plan = lifted(evaluator.make_plan(assignment, Provenance(planner="by hand")), p.cluster, grouping)
    change = by_name(p)["one more t on host a"]
    carried = _carried(plan, change.device, change.problem)
    assert carried.stages[0].replicas == ((0, 1), (3, 4))
    assert carried.prediction.iteration_time_s == pytest.approx(plan.prediction.iteration_time_s)
    assert _carried(plan, {d: d for d in range(4)}, p.with_parallelism(("pp", "dp"))) is None


def test_shares_are_carried_with_their_devices():
    p = grouped_problem(("pp", "dp"))
    assignment = Assignment(np.zeros(p.graph.num_ops, dtype=np.int64), ((2, 0),), (StageSettings(shares=(3, 1)),))
    plan = Evaluator(p).make_plan(assignment, Provenance(planner="by hand"))
    carried = _carried(plan, {0: 1, 2: 0}, p)
    assert (carried.stages[0].replicas, carried.stages[0].settings.shares) == (((0,), (1,)), (3, 1))
