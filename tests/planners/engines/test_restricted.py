"""Restricted planners: what they find can be exported, is legal, and is the best on small problems."""

import itertools

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link, load_cluster
from drlpp.cost.groups import grouped, lifted
from drlpp.errors import InputError
from drlpp.export import EXPORTERS
from drlpp.plan import Assignment, Provenance, validate
from drlpp.plan.settings import AGAIN, PLAIN
from drlpp.planners.base import Budget, PlanResult, no_progress
from drlpp.planners.engines.cut_points import block_of_op
from drlpp.planners.engines.engine import ENGINES, RUN
from drlpp.planners.engines.restricted import Restricted
from drlpp.planners.registry import get_planner
from drlpp.planners.variants import Variants
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from exported_models import capture_language_model
from exported_models import cluster as hosts_of_four
from layered_graphs import decoder_graph

FORMATS = {"torch": ("torch-schedule", "torch-split")}


class Fixed:
    """A planner that gives stages of one block each to devices in turn, so that devices come again."""

    name = "fixed"
    summary = "one block per stage, devices in turn"

    def __init__(self, settings=PLAIN):
        self.settings = settings

    def solve(self, problem, budget, seed, progress=no_progress):
        n, d = problem.graph.num_ops, problem.cluster.num_devices
        devices = tuple((s % d,) for s in range(n))
        assignment = Assignment(np.arange(n), devices, (self.settings,) * n)
        plan = Evaluator(problem).make_plan(assignment, Provenance(planner=self.name))
        return PlanResult(planner=self.name, status="ok", plan=plan, planning_time_s=0.0)


class Nothing:
    """A planner that finds nothing."""

    name = "nothing"
    summary = "finds nothing"

    def solve(self, problem, budget, seed, progress=no_progress):
        return PlanResult(planner=self.name, status="infeasible", plan=None, planning_time_s=0.0, reason="no luck")


def solved(planner, engine, graph, cluster, seconds=2.0, **options):
    problem = PlanningProblem.build(graph, cluster, **options)
    return problem, Restricted(planner, ENGINES[engine]).solve(problem, Budget(seconds), 0)


@pytest.mark.slow
@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("options", [{}, {"tied": True}, {"skip": True}])
@pytest.mark.parametrize("planner", ["uniform", "dp"])
def test_exporters_accept_the_plans(engine, options, planner):
    graph, cluster = decoder_graph(6, **options), load_cluster("mixed-a100-v100-t4")
    _, result = solved(get_planner(planner), engine, graph, cluster, 0.5)
    assert result.status == "ok"
    validate(result.plan)
    assert result.plan.provenance.notes["restricted_to"] == engine
    for name in FORMATS.get(engine, (engine,)):
        assert EXPORTERS[name].export(result.plan)


def two_kinds():
    """A fast and two slow devices, and a slow network."""
    types = (
        DeviceType(name="fast", memory_bytes=10**10, speed=2.0),
        DeviceType(name="slow", memory_bytes=10**10, speed=1.0),
    )
    network = Link(bandwidth=2e9, latency_s=1e-4)
    hosts = (
        Host(name="a", devices=("fast", "slow"), link=Link(bandwidth=1e10), network=network),
        Host(name="b", devices=("slow",), network=network),
    )
    return Cluster("two-kinds", types, hosts)


@pytest.mark.parametrize("heavy_layer", [None, 2])
def test_the_best_chain_of_single_devices_is_found(heavy_layer):
    graph = decoder_graph(4, heavy_layer=heavy_layer)
    problem, result = solved(get_planner("dp"), "megatron", graph, two_kinds(), 5.0, num_microbatches=7)
    label = block_of_op(graph, ENGINES["megatron"])
    evaluator, num_blocks = Evaluator(problem), int(label.max()) + 1
    best = np.inf
    for num_stages in range(1, 4):
        for cuts in itertools.combinations(range(1, num_blocks), num_stages - 1):
            stage_of_block = np.searchsorted(cuts, np.arange(num_blocks), side="right")
            for order in itertools.permutations(range(3), num_stages):
                assignment = Assignment(stage_of_block[label], tuple((d,) for d in order))
                best = min(best, evaluator.evaluate(assignment, ("1f1b",)).iteration_time_s)
    # seven micro-batches leave single devices; data parallelism on all three is not a chain of equal copies of them
    assert result.plan.prediction.iteration_time_s == pytest.approx(best, rel=0.02)
    assert result.plan.prediction.iteration_time_s >= best * (1 - 1e-9)


def test_equal_replicas_are_used_where_they_pay():
    cluster = load_cluster("nvlink-ib-2x8-a100")
    _, result = solved(get_planner("uniform"), "megatron", decoder_graph(2), cluster)
    counts = {len(s.devices) for s in result.plan.stages}
    assert len(counts) == 1
    assert counts.pop() > 1


@pytest.mark.slow
def test_groups_that_divide_ops_are_the_devices_of_an_engine():
    on = hosts_of_four(2, 4)
    open_problem = PlanningProblem.build(capture_language_model(), on, num_microbatches=8)
    problem = open_problem.with_parallelism(ENGINES["megatron"].parallelism, one_degree=True)
    grouping = next(g for g in Variants(problem).groupings if len(g.groups) == 4)
    result = Restricted(get_planner("dp"), ENGINES["megatron"]).solve(
        grouped(problem, grouping, sequence=True), Budget(2.0), 0
    )
    plan = lifted(result.plan, on, grouping)
    validate(plan)
    text = EXPORTERS["megatron"].export(plan)
    assert "--tensor-model-parallel-size 2\n" in text
    assert "--sequence-parallel\n    --use-distributed-optimizer\n" in text


def test_a_device_keeps_one_stage_even_if_the_planner_gives_it_more():
    _, result = solved(Fixed(), "deepspeed", decoder_graph(5), two_kinds(), num_microbatches=5)
    devices = [s.devices for s in result.plan.stages]
    assert len(set(devices)) == len(devices)
    assert EXPORTERS["deepspeed"].export(result.plan)


def test_without_time_to_polish_the_plan_is_still_expressible():
    _, result = solved(Fixed(AGAIN), "megatron", decoder_graph(5), two_kinds(), 0.0, num_microbatches=5)
    assert EXPORTERS["megatron"].export(result.plan)


def test_one_host_for_accelerate():
    _, result = solved(get_planner("uniform"), "accelerate", decoder_graph(4), load_cluster("mixed-desktops"))
    cluster = result.plan.cluster
    assert len({cluster.devices[d].host for s in result.plan.stages for d in s.devices}) == 1


def test_a_planner_that_finds_nothing_gives_a_simple_chain():
    _, result = solved(Nothing(), "megatron", decoder_graph(3), two_kinds())
    assert EXPORTERS["megatron"].export(result.plan)


def test_no_planner_is_worse_than_the_uniform_split_where_memory_is_tight():
    """A planner that finds nothing, against uniform; layers need recomputation and the last is five times as long."""
    cluster = equal_devices(4, memory=450 * 10**6)
    _, uniform = solved(get_planner("uniform"), "megatron", decoder_graph(8, heavy_layer=7), cluster, 5.0)
    _, nothing = solved(Nothing(), "megatron", decoder_graph(8, heavy_layer=7), cluster, 5.0)
    assert nothing.plan.prediction.iteration_time_s <= uniform.plan.prediction.iteration_time_s * (1 + 1e-9)


def equal_devices(number, memory=10**10):
    host = Host(name="a", devices=("t",) * number, link=Link(bandwidth=1e10))
    return Cluster("equal", (DeviceType(name="t", memory_bytes=memory),), (host,))


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["uniform", "dp", "greedy", "annealing"])
@pytest.mark.parametrize("engine", [*ENGINES, "run"])
def test_plans_have_the_number_of_stages_that_is_asked_for(planner, engine):
    problem = PlanningProblem.build(decoder_graph(6), load_cluster("mixed-a100-v100-t4"), num_microbatches=8)
    limits = RUN if engine == "run" else ENGINES[engine]
    for number in (1, 2, 3):
        result = Restricted(get_planner(planner), limits, number).solve(problem, Budget(0.6), 0)
        assert result.plan.num_stages == number
        assert result.plan.provenance.notes["num_stages"] == str(number)
        validate(result.plan)
        for name in FORMATS.get(engine, (engine,)) if engine != "run" else ():
            assert EXPORTERS[name].export(result.plan)


def test_more_stages_than_devices_loop_over_them():
    problem = PlanningProblem.build(decoder_graph(8), equal_devices(2), num_microbatches=8)
    result = Restricted(get_planner("uniform"), ENGINES["megatron"], 4).solve(problem, Budget(2.0), 0)
    assert [s.devices[0] for s in result.plan.stages] in ([0, 1, 0, 1], [1, 0, 1, 0])
    assert result.plan.schedule_name == "interleaved-1f1b"
    assert "--pipeline-model-parallel-size 2" in EXPORTERS["megatron"].export(result.plan)


def test_numbers_of_stages_that_cannot_be_had():
    problem = PlanningProblem.build(decoder_graph(8), equal_devices(2))
    with pytest.raises(InputError, match="--num-stages 4: DeepSpeed has one stage on each of the 2 devices, no more"):
        Restricted(get_planner("uniform"), ENGINES["deepspeed"], 4).solve(problem, Budget(1.0), 0)
    with pytest.raises(InputError, match="--num-stages 40: Megatron-LM can cut 'decoder' in at most 10 stages"):
        Restricted(get_planner("uniform"), ENGINES["megatron"], 40).solve(problem, Budget(1.0), 0)
    with pytest.raises(InputError, match="--num-stages 2: planner data-parallel makes one stage"):
        Restricted(get_planner("data-parallel"), RUN, 2)


def test_planners_that_do_not_apply_say_so():
    problem = PlanningProblem.build(decoder_graph(4), equal_devices(2))
    result = Restricted(get_planner("expert"), ENGINES["megatron"]).solve(problem, Budget(1.0), 0)
    assert (result.status, result.plan) == ("not-applicable", None)


def test_plans_that_exceed_the_memory_are_infeasible():
    small = Cluster("small", (DeviceType(name="t", memory_bytes=10**6),), (Host(name="a", devices=("t",)),))
    _, result = solved(Fixed(), "megatron", decoder_graph(3), small)
    assert result.status == "infeasible"
    assert "memory" in result.reason


def test_same_seed_same_plan():
    plans = [solved(get_planner("dp"), "torch", decoder_graph(3), two_kinds(), 20.0)[1].plan for _ in range(2)]
    assert plans[0].stages == plans[1].stages
