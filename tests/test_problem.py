"""The planning problem."""

import dataclasses

import pytest

from drlpp.cluster import load_cluster
from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.problem import PlanningProblem, SearchSpace, default_num_microbatches


def test_defaults():
    p = PlanningProblem.build(chain_graph(3), load_cluster("paper-4x4-10gbe"))
    assert p.training.num_microbatches == 32
    assert default_num_microbatches(2) == 8


def test_an_unknown_objective_is_refused():
    with pytest.raises(InputError, match="'speed' is not known"):
        PlanningProblem.build(chain_graph(3), load_cluster("local-2"), objective="speed")


def numbers(**options):
    problem = PlanningProblem.build(chain_graph(3), load_cluster("local-2"), **options)
    return problem.graph.samples_per_microbatch, problem.training.num_microbatches, problem.space.micro_batch_sizes


def test_a_model_of_one_size_keeps_it():
    graph = dataclasses.replace(chain_graph(3), samples_per_microbatch=4, batch_axis="none")
    problem = PlanningProblem.build(graph, load_cluster("local-2"), global_batch=24)
    assert (problem.training.num_microbatches, problem.variants) == (6, (problem,))


def test_samples_of_a_step():
    assert numbers(micro_batch_sizes=(4,), num_microbatches=3) == (4, 3, ())
    assert numbers(micro_batch_sizes=(4,), global_batch=24) == (4, 6, ())
    assert numbers(num_microbatches=6, global_batch=24) == (4, 6, ())
    assert numbers(global_batch=24) == (1, 24, (1, 2, 4, 8))
    assert numbers(global_batch=24, micro_batch_sizes=(6, 2, 6)) == (2, 12, (2, 6))
    assert numbers(global_batch=8, objective="steady-state") == (1, 8, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batch_sizes": (0,)}, "micro-batch size is 0: it must be at least 1"),
        ({"global_batch": 0}, "global batch is 0: it must be at least 1"),
        ({"micro_batch_sizes": (1, 2)}, "sizes are 1, 2: to choose among them, give the global batch too"),
        ({"global_batch": 10, "micro_batch_sizes": (4,)}, "size 4 does not divide the global batch of 10 samples"),
        ({"global_batch": 10, "micro_batch_sizes": (2, 4)}, "size 4 does not divide the global batch of 10 samples"),
        ({"global_batch": 10, "num_microbatches": 4}, "10 samples does not divide into 4 micro-batches"),
        ({"global_batch": 8, "num_microbatches": 4, "micro_batch_sizes": (4,)}, "have 2 samples each, and not 4"),
        ({"global_batch": 8, "micro_batch_sizes": (1, 2), "objective": "steady-state"}, "so give one size"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        numbers(**options)


def test_the_same_step_in_other_micro_batches():
    problem = PlanningProblem.build(chain_graph(3), load_cluster("local-2"), global_batch=24)
    assert [(v.graph.samples_per_microbatch, v.training.num_microbatches) for v in problem.variants] == [
        (1, 24),
        (2, 12),
        (4, 6),
        (8, 3),
    ]
    assert all(v.global_batch == 24 and v.variants == (v,) for v in problem.variants)
    with pytest.raises(InputError, match="size 7 does not divide"):
        problem.with_micro_batch_size(7)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"pp", "ep"}, "parallelism 'ep' is not known: use some of pp, dp, tp, sp, zero1"),
        ({"pp", "sp"}, "parallelism 'sp' is given without 'tp', which it needs: give tp too"),
        ({"pp", "zero1"}, "parallelism 'zero1' is given without 'dp'"),
        ({"dp"}, "parallelism 'dp' is given without 'pp'"),
        (set(), "parallelism is empty: give pp at least"),
    ],
)
def test_what_plans_may_use_is_checked(names, message):
    with pytest.raises(InputError, match=message):
        SearchSpace(parallelism=frozenset(names))


def test_replicas_may_share_where_they_may_be_and_train():
    problem = PlanningProblem.build(chain_graph(4), load_cluster("mixed-desktops"))
    assert problem.may_share
    assert not dataclasses.replace(problem, cluster=load_cluster("paper-2x8-25gbe")).may_share
    assert not problem.with_parallelism(("pp",)).may_share
    assert not problem.with_parallelism(("pp", "dp"), shares=False).may_share
    assert not dataclasses.replace(problem, training=dataclasses.replace(problem.training, optimizer="none")).may_share


@pytest.mark.parametrize(("tensor", "parallelism"), [(-1, {"pp", "tp"}), (4, {"pp"})])
def test_a_size_of_groups_needs_groups(tensor, parallelism):
    with pytest.raises(InputError, match=f"groups of {tensor} devices: give a number above 0, and tp"):
        SearchSpace(parallelism=frozenset(parallelism), tensor=tensor)
