"""What a planner draws from the policy."""

import numpy as np
import pytest
import torch

from drlpp.agent.decisions.device_groups import Slot
from drlpp.agent.networks.policy import PolicyConfig, Sieve, kept_by_estimate
from drlpp.agent.networks.weights_file import random_policy
from drlpp.agent.sampling.proposals import DEFAULTS, ProposalParams, propose
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.corpus import draw_problem
from drlpp.agent.view.coarse import coarse_problem
from drlpp.agent.view.features import problem_view
from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.graph.generate.synthetic import random_graph
from drlpp.graph.stages import check_partition
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator


def rewarder_of(problem):
    evaluator = Evaluator(problem)
    return Rewarder(lambda a: evaluator.evaluate(a).score(problem.objective), 1.0)


def drawn(problem, policy, episodes, seed=0, params=DEFAULTS):
    generator, view = torch.Generator().manual_seed(seed), problem_view(problem)
    return propose(policy, view, rewarder_of(problem), episodes, generator, greedy_first=True, params=params)


@pytest.mark.parametrize("episodes", [1, 2, 3, 7, 32])
def test_as_many_legal_plans_as_asked_with_their_values(problem, policy, episodes):
    found = drawn(problem, policy, episodes)
    assert len(found) == episodes
    rewarder = rewarder_of(problem)
    for value, assignment in found:
        check_partition(problem.graph, assignment.stage_of_op, assignment.num_stages)
        assert value == rewarder.value_of(assignment)


def test_the_first_plan_is_the_greedy_one(problem, policy, generator):
    greedy = policy.sample([problem_view(problem)], 1, generator, greedy_first=True)[0].assignments()[0]
    _, first = drawn(problem, policy, 16)[0]
    assert first.devices == greedy.devices
    assert first.stage_of_op.tolist() == greedy.stage_of_op.tolist()


def test_the_second_half_varies_the_best_of_the_first(policy):
    better = 0
    for seed in range(8):
        problem = draw_problem(np.random.default_rng(seed), "validation")
        found = drawn(coarse_problem(problem, 60).problem, policy, 32, seed, ProposalParams(slots=0.0))
        several = {assignment.devices for _, assignment in found[:16] if assignment.num_stages > 1}
        assert {assignment.devices for _, assignment in found[16:]} <= several
        better += min(value for value, _ in found[16:]) < min(value for value, _ in found[:16])
    assert better


def test_half_of_the_second_half_has_slots_that_the_sieve_did_not_keep(policy):
    new = 0
    for seed in range(4):
        problem = draw_problem(np.random.default_rng(seed), "validation")
        found = drawn(coarse_problem(problem, 60).problem, policy, 32, seed)
        first = {assignment.devices for _, assignment in found[:16]}
        new += len({assignment.devices for _, assignment in found[16:20]} - first)
    assert new


def test_the_same_seed_draws_the_same(problem, policy):
    def plans(seed):
        return [(a.stage_of_op.tolist(), a.devices, a.settings) for _, a in drawn(problem, policy, 12, seed)]

    assert plans(3) == plans(3)
    assert plans(3) != plans(4)


def test_one_device():
    kind = DeviceType(name="device", memory_bytes=10**10, speed=1.0, speed_is_given=True)
    cluster = Cluster("one", (kind,), (Host(name="a", devices=("device",), link=Link(bandwidth=1e9)),))
    graph = random_graph(np.random.default_rng(0), 6, branching=0.0, skips=0.0, measured=True)
    problem = PlanningProblem.build(graph, cluster, num_microbatches=2)
    found = drawn(problem, random_policy(PolicyConfig(width=8, num_layers=1), 0), 4)
    assert {assignment.devices for _, assignment in found} == {((0,),)}


def test_the_sieve_keeps_the_best_of_each_kind(problem, monkeypatch):
    view = problem_view(problem)

    def of(*replicas):
        return tuple(Slot(((0, r),)) for r in replicas)

    # what the estimate likes best is all of one kind; the order of the slots makes no other kind
    slots = [of(1, 1, 2), of(1, 2, 1), of(2, 1, 1), of(1, 1, 1), of(3, 1), of(1, 3), of(4), of(2, 1, 1)]
    monkeypatch.setattr("drlpp.agent.networks.policy.estimate", lambda view, drawn: np.arange(8.0))
    kept = kept_by_estimate(view, slots, 4, Sieve(), greedy_first=False).tolist()
    assert kept == [0, 1, 3, 4]
    assert kept_by_estimate(view, slots, 8, Sieve(), greedy_first=False).tolist() == [0, 1, 2, 3, 4, 6, 5, 7]
    assert kept_by_estimate(view, slots, 1, Sieve(), greedy_first=True).tolist() == [0]
