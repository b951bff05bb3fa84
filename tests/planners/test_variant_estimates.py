"""Closed forms of variants: equal to what is simulated where stages are equal, scale-free, and honest about memory."""

import dataclasses
import time

import numpy as np
import pytest

from drlpp.bench.suites import find_suite
from drlpp.cluster import Cluster, Host, Link, device_preset
from drlpp.graph.generate.large_models import decoder
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan.assignment import Assignment
from drlpp.planners.variant_estimates import TOO_LARGE, variant_table
from drlpp.planners.variants import Variants
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from planner_cases import small_cluster

WHOLE = {"pp", "dp", "tp", "sp", "zero1"}


def table_of(problem):
    variants = Variants(problem)
    return variant_table(problem, variants.sizes, variants.groupings)


def equal_cluster(memory_gb=80.0, bandwidth=1.0):
    device = dataclasses.replace(device_preset("a100-sxm4-80gb"), name="a", memory_bytes=int(memory_gb * 1e9))
    link, port = Link(bandwidth=2e11 * bandwidth), Link(bandwidth=5e10 * bandwidth)
    hosts = tuple(Host(name=f"h{i}", devices=("a",) * 4, link=link, network=port) for i in range(2))
    return Cluster("equal", (device,), hosts)


def decoder_problem(**options):
    graph = decoder(layers=4, hidden=1024, heads=8, kv_heads=8, ffn=4096, vocab=32000, seq_len=512)
    problem = PlanningProblem.build(graph, equal_cluster(**options), global_batch=16, precision="bf16")
    return problem.with_parallelism(WHOLE)


def test_on_one_device_the_estimate_is_the_simulated_time():
    problem = PlanningProblem.build(chain_graph(8, param_bytes=0.0), small_cluster([["mid"]]), num_microbatches=6)
    simulated = Evaluator(problem).evaluate(Assignment(np.zeros(8, dtype=np.int64), ((0,),)))
    assert table_of(problem).estimate_s == pytest.approx([simulated.iteration_time_s])


def test_every_variant_has_a_finite_estimate():
    table = table_of(decoder_problem())
    variants = Variants(decoder_problem())
    assert len(table.keys) == len(set(table.keys)) == len(variants.sizes) * len(variants.groupings)
    assert table.estimate_s.shape == (len(table.keys),)
    assert np.isfinite(table.estimate_s).all()
    assert (table.estimate_s > 0).all()


def test_what_does_not_fit_is_last():
    roomy, tight = table_of(decoder_problem()), table_of(decoder_problem(memory_gb=0.02))
    assert (tight.estimate_s >= TOO_LARGE * roomy.estimate_s).all()


def test_slow_links_inside_hosts_make_groups_dear():
    fast, slow = (table_of(decoder_problem(bandwidth=b)) for b in (1.0, 0.01))
    assert slow.keys[int(slow.estimate_s.argmin())][1] == 0
    groups = [i for i, key in enumerate(fast.keys) if key[1] == 1]
    alone = [i for i, key in enumerate(fast.keys) if key[1] == 0]
    ratio = [t.estimate_s[groups] / t.estimate_s[alone] for t in (fast, slow)]
    assert (ratio[1] > 2 * ratio[0]).all()


def test_a_micro_batch_is_judged_by_its_own_time_where_the_objective_does():
    """Neither bubbles nor the exchange of gradients count: equal devices alone share the work as they are."""
    problem = PlanningProblem.build(
        chain_graph(8, param_bytes=1e6), small_cluster([["mid"] * 4]), num_microbatches=2, objective="steady-state"
    )
    one = PlanningProblem.build(problem.graph, small_cluster([["mid"]]), num_microbatches=2, objective="steady-state")
    assert table_of(problem).estimate_s * 4 == pytest.approx(table_of(one).estimate_s)


def test_thousands_of_variants_take_less_than_a_second():
    """On 1,024 devices of four kinds; so the first plan does not wait for the choice."""
    case = next(c for c in find_suite("hybrid-large").cases if "1024" in c.name and "405b" in c.name)
    problem = case.problem()
    start = time.process_time()
    table = table_of(problem)
    assert len(table.keys) > 2000
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("cluster", [small_cluster([["fast"]]), small_cluster([["fast", "slow"], ["mid"]])])
def test_graphs_of_measured_times_have_estimates_too(cluster):
    table = table_of(PlanningProblem.build(chain_graph(3), cluster, global_batch=8, micro_batch_sizes=(1, 2, 8)))
    assert np.isfinite(table.estimate_s).all()
    assert len(table.keys) == 3
