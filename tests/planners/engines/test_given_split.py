"""One's own split: what is read, what is refused, and that it is judged and exported like any plan."""

from __future__ import annotations

import itertools

import pytest

from drlpp.cluster import load_cluster
from drlpp.errors import InputError
from drlpp.export import EXPORTERS
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Assignment, validate
from drlpp.plan.settings import AGAIN, PLAIN
from drlpp.planners.base import Budget
from drlpp.planners.engines.engine import ENGINES, RUN
from drlpp.planners.engines.given_split import GivenSplit, stage_of_op
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from layered_graphs import decoder_graph


def solved(layers, engine=RUN, cluster="mixed-a100-v100-t4", graph=None, seconds=2.0):
    problem = PlanningProblem.build(graph or decoder_graph(6), load_cluster(cluster), num_microbatches=8)
    return problem, GivenSplit(layers, engine).solve(problem, Budget(seconds), 0)


@pytest.mark.parametrize("engine", ["megatron", "torchtitan", "deepspeed", "vllm"])
def test_stages_have_their_layers_and_are_exported(engine):
    _, result = solved((1, 3, 2), ENGINES[engine])
    validate(result.plan)
    modules = [{result.plan.graph.ops[result.plan.graph.index[o]].module for o in s.ops} for s in result.plan.stages]
    found = [{m.split(".")[2] for m in stage if m.startswith("model.layers.")} for stage in modules]
    assert found == [{"0"}, {"1", "2", "3"}, {"4", "5"}]
    assert EXPORTERS[engine].export(result.plan)
    assert result.plan.provenance.notes["layers"] == "1,3,2"


def test_the_best_devices_are_found():
    problem, result = solved((1, 3, 2), cluster="mixed-a100-v100-t4", seconds=20.0)
    stage = stage_of_op(problem.graph, (1, 3, 2))
    evaluator, best = Evaluator(problem), float("inf")
    for order in itertools.permutations(range(problem.cluster.num_devices), 3):
        for settings in (PLAIN, AGAIN):
            chain = Assignment(stage, tuple((d,) for d in order), (settings,) * 3)
            best = min(best, evaluator.evaluate(chain).iteration_time_s)
    assert result.plan.prediction.iteration_time_s <= best * 1.01


def test_ends_without_layers():
    graph = decoder_graph(6)
    stage = stage_of_op(graph, (0, 6, 0))
    assert [graph.ops[i].name for i in (0, 1, 2)] == ["mask", "embed", "attn0"]
    assert stage[:3].tolist() == [0, 0, 1]
    assert [graph.ops[i].name for i, s in enumerate(stage) if s == 2] == ["norm", "head", "loss"]


def test_more_stages_than_devices_loop():
    _, result = solved((1, 2, 1, 2), ENGINES["megatron"], "local-2")
    devices = [s.devices for s in result.plan.stages]
    assert devices[:2] == devices[2:]


def test_splits_that_cannot_be():
    with pytest.raises(InputError, match=r"--layers gives 5 layers to 2 stages, but 'model\.layers' has 6: make the"):
        solved((2, 3))
    with pytest.raises(InputError, match="--layers: nothing is left for stage 1: give it a layer"):
        solved((6, 0, 0))
    with pytest.raises(InputError, match="names no list of layers"):
        solved((2, 3), graph=chain_graph(5))
    with pytest.raises(InputError, match=r"--layers: vLLM cannot cut before 'model\.layers\.0\.attn', where stage 1"):
        solved((0, 6), ENGINES["vllm"])
    with pytest.raises(InputError, match="--num-stages 3: DeepSpeed has one stage on each of the 2 devices, no more"):
        solved((2, 2, 2), ENGINES["deepspeed"], "local-2")
