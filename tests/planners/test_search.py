"""What every search keeps."""

import dataclasses

import numpy as np
import pytest

from drlpp.cluster import Cluster, DeviceGroup, DeviceType, Host, Link
from drlpp.graph.blocks import Recompute
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.graph.generate.transformers import Transformer, transformer_graph
from drlpp.plan import StageSettings
from drlpp.plan.assignment import Assignment
from drlpp.plan.settings import AGAIN
from drlpp.planners.base import Budget
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator

PIPELINE = Assignment(np.repeat([0, 1, 2], 2), ((0,), (1,), (2,)))


@pytest.fixture
def problem():
    kind = DeviceType(name="device", memory_bytes=10**10)
    cluster = Cluster("three", (kind,), (Host(name="host", devices=(kind.name,) * 3, link=Link(bandwidth=1e12)),))
    return PlanningProblem.build(chain_graph(6, tensor_bytes=1.0, param_bytes=1.0), cluster, num_microbatches=3)


@pytest.fixture
def search(problem):
    return Search("test", problem, Budget(1.0), 0)


def test_an_offer_is_tried_under_all_schedules(problem, search):
    everything = Evaluator(problem).evaluate(PIPELINE).iteration_time_s
    assert everything < Evaluator(problem).evaluate(PIPELINE, ["1f1b"]).iteration_time_s
    assert search.offer(PIPELINE) == search.best_value == everything


def test_a_hopeless_hasty_offer_is_tried_under_1f1b_only(problem, search):
    search.best_value = Evaluator(problem).evaluate(PIPELINE).iteration_time_s / 2
    assert search.offer(PIPELINE, hasty=True) == Evaluator(problem).evaluate(PIPELINE, ["1f1b"]).iteration_time_s
    assert search.best is None


def test_what_was_tried_in_haste_is_tried_again_when_offered_in_earnest(problem, search):
    better = Evaluator(problem).evaluate(PIPELINE).iteration_time_s
    hurried = Evaluator(problem).evaluate(PIPELINE, ["1f1b"]).iteration_time_s
    search.best_value = better / 2
    assert search.offer(PIPELINE, hasty=True) == hurried
    assert search.offer(PIPELINE) == better
    assert search.offer(PIPELINE, hasty=True) == better
    assert search.num_offers == 2


LAYERS = transformer_graph(Transformer(layers=8, hidden=64, heads=4, ffn=256, vocab=100, seq=128, batch=8))


def memory_problem(memory_bytes, size=1):
    device = DeviceType(name="device", memory_bytes=memory_bytes)
    group = DeviceGroup(member=device, size=size, link=Link(bandwidth=1e12), sequence=False) if size > 1 else None
    kind = dataclasses.replace(device, group=group)
    host = Host(name="host", devices=(kind.name,) * 2, link=Link(bandwidth=1e12))
    return PlanningProblem.build(LAYERS, Cluster("two", (kind,), (host,)), num_microbatches=4)


@pytest.mark.parametrize("alone", [True, False])
def test_blocks_compute_again_where_whole_stages_do_not_fit(alone):
    roomy = memory_problem(10**12)
    half = np.arange(roomy.graph.num_ops) >= roomy.graph.num_ops // 2
    stages = Assignment(half.astype(np.int64), ((0,), (1,)), (AGAIN, AGAIN))
    need = [
        Evaluator(roomy).evaluate(a, ["1f1b"]).peak_memory_bytes.max() for a in (stages, stages.with_blocks_again())
    ]
    assert need[1] < need[0]
    search = Search("test", memory_problem(int(sum(need) / 2), size=1 if alone else 2), Budget(10.0), 0)
    value = search.offer(stages)
    assert search.last_feasible == alone
    if alone:
        assert search.best is not None
        assert search.best.settings == (StageSettings(Recompute.BLOCK),) * 2
        assert value == search.best_value
    else:
        assert search.best is None
