"""Training on one problem, against the exhaustive optimum."""

import numpy as np
import pytest
import torch

from drlpp.agent.networks.policy import PolicyConfig
from drlpp.agent.networks.weights_file import random_policy
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.fine_tune import Clock, TrainConfig, train_on_problem
from drlpp.agent.view.features import problem_view
from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import random_graph
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from oracle import best_value


def three_devices() -> Cluster:
    kinds = (
        DeviceType(name="fast", memory_bytes=10**10),
        DeviceType(name="slow", memory_bytes=10**10, speed=0.5),
    )
    link, network = Link(bandwidth=1e10), Link(bandwidth=2e9, latency_s=2e-5)
    hosts = (
        Host(name="a", devices=("fast", "slow"), link=link, network=network),
        Host(name="b", devices=("fast",), network=network),
    )
    return Cluster("three", kinds, hosts)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_exhaustive_optimum_is_reached(seed):
    graph = random_graph(np.random.default_rng(seed), 7, branching=0.6, skips=0.2)
    problem = PlanningProblem.build(graph, three_devices(), num_microbatches=4).with_parallelism(
        ("pp", "dp"), shares=False
    )
    evaluator, view = Evaluator(problem), problem_view(problem)
    optimum = best_value(problem, loops=False)
    rewarder = Rewarder(lambda a: evaluator.evaluate(a).score(problem.objective), optimum)
    train_on_problem(
        random_policy(PolicyConfig(width=32), seed),
        view,
        rewarder,
        TrainConfig(iterations=200),
        torch.Generator().manual_seed(seed),
        lambda row: rewarder.best[0] > optimum * (1 + 1e-9),
    )
    assert rewarder.best[0] == pytest.approx(optimum)


def run(policy, view, iterations=3):
    evaluator = Evaluator(view.problem)
    rewarder = Rewarder(lambda a: evaluator.evaluate(a).iteration_time_s, 1.0)
    config = TrainConfig(episodes=8, repeats=2, iterations=iterations)
    clock = Clock()
    curve = train_on_problem(policy, view, rewarder, config, torch.Generator().manual_seed(5), lambda row: True, clock)
    return curve, rewarder, clock


def test_the_same_seed_gives_the_same_trajectory(view):
    a, b = (run(random_policy(PolicyConfig(width=8), 1), view) for _ in range(2))
    timeless = [
        [{k: v for k, v in row.items() if not k.endswith(("seconds", "iteration_s"))} for row in x[0]] for x in (a, b)
    ]
    assert timeless[0] == timeless[1]
    assert a[1].best[0] == b[1].best[0]


def test_the_curve_and_the_clock(view):
    curve, rewarder, clock = run(random_policy(PolicyConfig(width=8), 1), view)
    assert [row["iteration"] for row in curve] == [0, 1, 2]
    assert {"seconds", "mean_reward", "best_reward", "best_value_s", "entropy", "kl", "clip_fraction"} <= set(curve[0])
    assert curve[-1]["best_value_s"] == rewarder.best[0]
    assert min(clock.sampling_s, clock.evaluation_s, clock.learning_s) > 0


def test_the_callback_ends_the_training(view, policy):
    rewarder = Rewarder(lambda a: 1.0, 1.0)
    config = TrainConfig(episodes=8, repeats=2)
    curve = train_on_problem(policy, view, rewarder, config, torch.Generator(), lambda row: row["iteration"] < 1)
    assert len(curve) == 2


def test_too_few_episodes():
    with pytest.raises(InputError, match="episodes 4 and repeats 4"):
        TrainConfig(episodes=4, repeats=4)
