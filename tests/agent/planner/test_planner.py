"""The drl planner."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from agent_problems import small_problem
from drlpp.agent.networks.policy import PolicyConfig
from drlpp.agent.networks.weights_file import initial_policy, random_policy, save_checkpoint, untrained_policy
from drlpp.agent.planner.planner import DrlConfig, DrlPlanner
from drlpp.agent.sampling.proposals import propose
from drlpp.errors import InputError
from drlpp.plan import validate
from drlpp.planners.base import Budget
from drlpp.planners.bounds.lower_bound import lower_bound
from drlpp.planners.parameters import UNTRAINED
from drlpp.planners.registry import get_planner
from drlpp.solving import planner_of

POLICY = {"episodes": 8, "iterations": 2, "policy_only": True}


@pytest.mark.slow
def test_never_worse_than_the_cheap_planners():
    problem = small_problem(3, num_ops=40)
    ours = DrlPlanner().solve(problem, Budget(3.0), 0)
    assert ours.status == "ok"
    validate(ours.plan)
    for name in ("data-parallel", "uniform", "pipedream"):
        theirs = get_planner(name).solve(problem, Budget(3.0), 0)
        assert ours.plan.prediction.iteration_time_s <= theirs.plan.prediction.iteration_time_s * (1 + 1e-9)


def test_what_each_part_found_is_told_apart():
    result = DrlPlanner().solve(small_problem(1), Budget(3.0), 0)
    b = result.breakdown
    assert b["policy_best_s"] <= b["zero_shot_best_s"]
    assert b["refined_best_s"] <= min(b["policy_best_s"], b["baseline_best_s"]) + 1e-12
    assert b["refined_best_s"] == pytest.approx(result.plan.prediction.iteration_time_s)
    assert {"sampling_s", "evaluation_s", "learning_s", "baselines_s", "refinement_s"} <= set(b)


@pytest.mark.parametrize(("seconds", "least", "most"), [(10.0, 64, 64), (3.0, 10, 63)])
def test_the_policy_alone_draws_until_it_has_all_its_samples_or_no_time(monkeypatch, seconds, least, most):
    """The probe is dear, so that its cost per sample says that few more fit."""
    drawn, now = [], [0.0]

    def noting(policy, view, rewarder, episodes, *args, **options):
        drawn.append(episodes)
        now[0] += 1.0 + 0.01 * episodes
        return propose(policy, view, rewarder, episodes, *args, **options)

    monkeypatch.setattr("drlpp.agent.planner.planner.propose", noting)
    planner = DrlPlanner(DrlConfig(policy_only=True, iterations=0))
    planner.solve(small_problem(1), Budget(seconds, lambda: now[0]), 0)
    assert least <= sum(drawn) <= most
    assert now[0] <= seconds * 1.05


@pytest.mark.slow
def test_annealing_has_its_own_way_for_a_part_of_the_time():
    problem, enough_s = small_problem(1), 3.0
    result = DrlPlanner(DrlConfig(iterations=0, short_budget_s=enough_s)).solve(
        problem, Budget(enough_s, time.process_time), 3
    )
    b = result.breakdown
    alone = get_planner("annealing").solve(problem, Budget(enough_s / 8, time.process_time), 3)
    assert b["refined_best_s"] <= b["annealing_best_s"] + 1e-12
    assert b["annealing_best_s"] <= alone.plan.prediction.iteration_time_s * (1 + 1e-9)
    assert 0 < b["annealing_s"] < enough_s / 2


def test_the_search_ends_with_a_plan_that_is_proven_optimal():
    problem = small_problem(1)
    alone = dataclasses.replace(problem, cluster=problem.cluster.subset([0]))
    result = DrlPlanner().solve(alone, Budget(60.0), 0)
    assert result.plan.prediction.iteration_time_s <= lower_bound(alone).value_s * (1 + 1e-6)
    assert result.planning_time_s < 20.0
    assert "annealing_s" not in result.breakdown


def test_the_policy_alone_depends_on_the_seed_only():
    problem = small_problem(2)
    results = [DrlPlanner(DrlConfig(**POLICY)).solve(problem, Budget(60.0), s) for s in (4, 4)]
    a, b = (r.plan.assignment for r in results)
    assert np.array_equal(a.stage_of_op, b.stage_of_op)
    assert a.devices == b.devices
    assert [row["mean_reward"] for row in results[0].curve] == [row["mean_reward"] for row in results[1].curve]
    assert len(results[0].curve) == 2
    assert "baseline_best_s" not in results[0].breakdown


def test_the_budget_is_kept():
    planner, problem = DrlPlanner(), small_problem(5, num_ops=120)
    start = time.process_time()
    result = planner.solve(problem, Budget(2.0, time.process_time), 0)
    assert time.process_time() - start < 3.0
    assert result.planning_time_s < 3.0


def test_the_objective_is_the_problems():
    problem = dataclasses.replace(small_problem(6), objective="steady-state")
    result = DrlPlanner().solve(problem, Budget(2.0), 0)
    assert result.breakdown["refined_best_s"] == pytest.approx(result.plan.prediction.bottleneck_s)


def test_a_problem_without_feasible_plan_is_infeasible():
    result = DrlPlanner().solve(small_problem(0, memory_bytes=10**5), Budget(1.0), 0)
    assert result.status == "infeasible"
    assert "no plan can fit the memory" in result.reason


def test_one_op_on_many_devices():
    assert DrlPlanner().solve(small_problem(0, num_ops=2), Budget(1.0), 0).status == "ok"


def test_learning_curves_are_written(tmp_path):
    DrlPlanner(DrlConfig(**POLICY, log_dir=tmp_path)).solve(small_problem(0), Budget(60.0), 0)
    assert list(tmp_path.glob("events.out.*"))


def test_weights_from_a_file(tmp_path):
    save_checkpoint(tmp_path / "w", random_policy(PolicyConfig(width=8), 0), {})
    config = DrlConfig(**{**POLICY, "iterations": 0}, weights=tmp_path / "w")
    assert DrlPlanner(config).solve(small_problem(0), Budget(60.0), 0).status == "ok"
    with pytest.raises(InputError, match="cannot read weights"):
        DrlPlanner(DrlConfig(weights=tmp_path / "none"))


def test_without_weights_the_policy_is_random_by_seed_and_the_plan_says_so():
    config = DrlConfig(**{**POLICY, "iterations": 0}, weights=UNTRAINED)
    results = [DrlPlanner(config).solve(small_problem(0), Budget(60.0), 0).plan for _ in range(2)]
    assert results[0].assignment.key == results[1].assignment.key
    assert planner_of(results[0].provenance).params == config
    policies = [untrained_policy(seed) for seed in (0, 0, 1)]
    first = [next(policy.parameters()) for policy in (*policies, initial_policy(0))]
    assert [torch.equal(first[0], other) for other in first[1:]] == [True, False, False]


def test_progress_is_told():
    told = []
    DrlPlanner(DrlConfig(**POLICY)).solve(small_problem(0), Budget(60.0), 0, lambda *x: told.append(x))
    assert {message for message, _, _ in told} == {"drl", "learning"}


@pytest.mark.parametrize(
    ("wrong", "message"), [({"episodes": 2}, "episodes is 2"), ({"learning_share": 2.0}, "learning_share 2.0")]
)
def test_wrong_settings(wrong, message):
    with pytest.raises(InputError, match=message):
        DrlConfig(**wrong)
