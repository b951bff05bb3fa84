"""Training on one problem: sample, evaluate, update, and again, until the iterations or the budget are used up."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from drlpp.agent.networks.policy import Policy
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.ppo import Batch, Ppo, PpoConfig
from drlpp.agent.view.features import ProblemView
from drlpp.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of training on one problem.

    Attributes:
        episodes: per iteration.
        repeats: partitions drawn for the same slots.
        iterations: at most this many; None for no limit but the budget.
        ppo: settings of the update.

    Raises:
        InputError: a value is out of range.
    """

    episodes: int = 64
    repeats: int = 4
    iterations: int | None = None
    ppo: PpoConfig = dataclasses.field(default_factory=PpoConfig)

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.episodes < 2 * self.repeats:
            raise InputError(
                f"episodes {self.episodes} and repeats {self.repeats}: the baseline needs at least 2 x repeats episodes"
            )


@dataclasses.dataclass
class Clock:
    """Seconds spent, by activity."""

    sampling_s: float = 0.0
    evaluation_s: float = 0.0
    learning_s: float = 0.0


Iteration = Mapping[str, float]
OnIteration = Callable[[Iteration], bool]
"""Called after each iteration with its row of the learning curve; returns whether to go on."""


def train_on_problem(
    policy: Policy,
    view: ProblemView,
    rewarder: Rewarder,
    config: TrainConfig,
    generator: torch.Generator,
    on_iteration: OnIteration,
    clock: Clock | None = None,
    *,
    learner: Ppo | None = None,
    reference: Policy | None = None,
    first: int = 0,
) -> list[Iteration]:
    """Trains a policy on one problem, in place; the rewarder keeps the best assignment.

    Args:
        learner: over the policy, with the optimizer's state of an earlier run; by default a new one.
        reference: the policy is kept near this one; by default near what it is now.
        first: number of the first iteration.

    Returns:
        The learning curve: per iteration ``iteration, seconds, iteration_s, mean_reward, best_reward, best_value_s``
        and the metrics of `Ppo.update`.
    """
    clock = clock if clock is not None else Clock()
    reference = copy.deepcopy(policy) if reference is None else reference
    learner = Ppo(policy, config.ppo) if learner is None else learner
    curve: list[Iteration] = []
    start = time.perf_counter()
    while config.iterations is None or first + len(curve) < config.iterations:
        t0 = time.perf_counter()
        rollout = policy.sample([view], config.episodes, generator, repeats=config.repeats)[0]
        t1 = time.perf_counter()
        values = rewarder.values(rollout)
        rewards = rewarder.rewards(values)
        t2 = time.perf_counter()
        with torch.no_grad():
            before = reference.evaluate(view, rollout.decisions).log_probs
        metrics = learner.update([Batch(rollout, rewards, before)], generator)
        t3 = time.perf_counter()
        clock.sampling_s += t1 - t0
        clock.evaluation_s += t2 - t1
        clock.learning_s += t3 - t2
        row = {
            "iteration": float(first + len(curve)),
            "seconds": t3 - start,
            "iteration_s": t3 - t0,
            "mean_reward": float(rewards.mean()),
            "best_reward": float(rewards.max()),
            "best_value_s": float(rewarder.best[0] if rewarder.best else np.inf),
            **metrics,
        }
        curve.append(row)
        if not on_iteration(row):
            break
    return curve
