"""Pre-training: imitation of the best plans, then PPO beside it, over a stream of drawn problems (`corpus`).

Validation is on families and clusters that training never draws, as a planner draws (`proposals`): the best counts.
The weights that did best there are the result of the run.

Everything drawn in iteration i follows from (seed, i), so a run that is resumed from its checkpoint makes the same
steps as one that was never stopped, but for the pool of imitation, which is drawn anew with the checkpoint's weights.
Files in the run's folder: ``policy.safetensors`` (the best weights, record), ``checkpoint.safetensors`` (the latest,
with the optimizer, to resume from), ``curve.jsonl`` (one row per iteration), ``events.out.*`` (for tensorboard).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from drlpp._version import __version__
from drlpp.agent.networks.policy import PARTS, Policy, PolicyConfig
from drlpp.agent.networks.weights_file import load_checkpoint, random_policy, restore_optimizer, save_checkpoint
from drlpp.agent.sampling.proposals import propose
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.corpus import (
    CLUSTER_SPLITS,
    GRAPH_SPLITS,
    LARGE_CLUSTER_SPLITS,
    LARGE_GRAPH_SPLITS,
    Split,
    draw_large_problem,
    draw_problem,
)
from drlpp.agent.training.imitation import Elite, ImitationConfig, draw_elite, imitation_loss
from drlpp.agent.training.ppo import Batch, Ppo, PpoConfig
from drlpp.agent.view.coarse import coarse_problem
from drlpp.agent.view.features import ProblemView, problem_view
from drlpp.errors import InputError
from drlpp.files import write_atomically
from drlpp.graph import OpGraph
from drlpp.plan.assignment import Assignment
from drlpp.planners.search import SEARCH
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
BEST = "policy.safetensors"
_VALIDATION_SEED = 10**6
_VALIDATION_GROUPS = 100
_VALIDATION_EPISODES = 64
_SCORE = "validation_best_reward"
_NO_PLAN = -3.0
"""Reward of a validation problem without a plan that fits: how far it is off would outweigh all the others."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """Settings of a pre-training run.

    Attributes:
        seed: decides everything but wall-clock times.
        imitation_iterations: iterations of the warm start (`imitation`), before PPO; 0 leaves imitation out. The
            learning rate falls to a fifth over them.
        iterations: of PPO; the learning rate falls to a tenth over them.
        problems: drawn per iteration.
        large: part of them that is of the large scale (`corpus`); of those of the validation, too.
        episodes: per problem.
        repeats: partitions drawn for the same slots.
        max_groups: largest number of groups that graphs are coarsened to (the size is drawn from a third of it up).
        validate_every: iterations between validations.
        validation_problems: drawn once, from the validation split.
        checkpoint_s: seconds between checkpoints.
        policy, imitation, ppo: the networks, the warm start and the update.

    Raises:
        InputError: a value is out of range.
    """

    seed: int = 0
    imitation_iterations: int = 480
    iterations: int = 120
    problems: int = 5
    large: float = 0.6
    episodes: int = 32
    repeats: int = 2
    max_groups: int = 72
    validate_every: int = 60
    validation_problems: int = 24
    checkpoint_s: float = 120.0
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    imitation: ImitationConfig = dataclasses.field(default_factory=ImitationConfig)
    ppo: PpoConfig = dataclasses.field(
        default_factory=lambda: PpoConfig(
            learning_rate=3e-4,
            epochs=2,
            minibatches=1,
            entropy=dict.fromkeys(PARTS, 0.003) | {"schedule": 0.05, "order": 0.02, "walk": 0.004, "cut": 0.01},
        )
    )

    def __post_init__(self) -> None:
        if self.imitation_iterations < 0:
            raise InputError(f"imitation_iterations is {self.imitation_iterations}: it must not be negative")
        if self.imitation_iterations and not self.policy.scheduler:
            raise InputError("this policy has no scheduler to imitate: set imitation_iterations to 0")
        if min(self.iterations, self.problems, self.validate_every, self.validation_problems) < 1:
            raise InputError("iterations, problems, validate_every and validation_problems must be at least 1")
        if self.episodes < 2 * self.repeats:
            raise InputError(f"episodes is {self.episodes}: it must be at least 2 x repeats ({self.repeats})")
        if self.max_groups < 6:
            raise InputError(f"max_groups is {self.max_groups}: it must be at least 6")


@dataclasses.dataclass(frozen=True)
class _Task:
    view: ProblemView
    rewarder: Rewarder


def _task(problem: PlanningProblem, max_groups: int) -> _Task:
    coarse = coarse_problem(problem, max_groups).problem
    view = problem_view(coarse)
    evaluator, objective = Evaluator(coarse), problem.objective
    steps = objective.microbatches(problem.training.num_microbatches)

    def value_s(assignment: Assignment) -> float:
        give_up_s = SEARCH.hopeless * rewarder.best[0] if rewarder.best else math.inf
        return evaluator.evaluate(assignment, give_up_s=give_up_s).score(objective)

    rewarder = Rewarder(value_s, view.tables.ideal_s * steps)
    return _Task(view, rewarder)


def pretrain(
    folder: Path,
    config: PretrainConfig,
    *,
    captured: Sequence[OpGraph] = (),
    start_from: Path | None = None,
    note: Mapping[str, str] | None = None,
    resume: bool = False,
    stop_after_s: float | None = None,
) -> Policy:
    """Trains a policy on the corpus and leaves the best weights, checkpoint and curve in a folder.

    Args:
        folder: made if it does not exist.
        captured: graphs of real models for the training split.
        start_from: weights to begin with, of the same shape of networks; None for random ones.
        note: goes into the record (command, commit).
        resume: go on from the folder's checkpoint.
        stop_after_s: stop, with a checkpoint, when this much time has passed.

    Raises:
        InputError: there is nothing to resume from, a file cannot be written, or the weights to start from have another
            shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    policy, first = random_policy(config.policy, config.seed), 0
    if start_from is not None:
        policy = load_checkpoint(start_from)[0]
        if policy.config != config.policy:
            raise InputError(f"{start_from} has other networks than this run: train from the start")
    states: dict[int, dict[str, Tensor]] = {}
    if resume:
        policy, record, states = load_checkpoint(folder / CHECKPOINT)
        first = int(record["iteration"])
    learner = Ppo(policy, config.ppo)
    if states:
        restore_optimizer(learner.optimizer, states)
    validation = [
        _task(draw(np.random.default_rng([_VALIDATION_SEED, i]), "validation"), _VALIDATION_GROUPS)
        for i, draw in enumerate(_draws(config.validation_problems, config.large))
    ]
    curve = _read_curve(folder / "curve.jsonl", first)
    best = max((row[_SCORE] for row in curve if _SCORE in row), default=-np.inf)
    total = config.imitation_iterations + config.iterations
    warm_start = _WarmStart(policy, config)
    if first:
        warm_start.refill(min(first, config.imitation_iterations), captured)
    start = saved = time.perf_counter()

    def record_of(iteration: int) -> dict[str, Any]:
        return {
            **dict(note or {}),
            "version": __version__,
            "config": dataclasses.asdict(config),
            "splits": {
                "graphs": dict(GRAPH_SPLITS),
                "clusters": dict(CLUSTER_SPLITS),
                "large graphs": dict(LARGE_GRAPH_SPLITS),
                "large clusters": dict(LARGE_CLUSTER_SPLITS),
            },
            "captured": [g.source or g.name for g in captured],
            "start_from": str(start_from or ""),
            "iteration": iteration,
        }

    def save(iteration: int) -> None:
        write_atomically(folder / "curve.jsonl", "".join(json.dumps(row) + "\n" for row in curve))
        save_checkpoint(folder / CHECKPOINT, policy, record_of(iteration), learner.optimizer)

    with SummaryWriter(log_dir=str(folder)) as writer:
        for iteration in range(first, total):
            if iteration < config.imitation_iterations:
                row = warm_start.iterate(learner.optimizer, iteration, captured)
            else:
                done = (iteration - config.imitation_iterations) / config.iterations
                _set_rate(learner.optimizer, config.ppo.learning_rate * (1.0 - 0.9 * done))
                row = _iterate(learner, warm_start, config, iteration, captured)
            row["seconds"] = time.perf_counter() - start
            if iteration % config.validate_every == 0 or iteration == total - 1:
                row |= validate(policy, validation)
                if row[_SCORE] > best:
                    best = row[_SCORE]
                    save_checkpoint(folder / BEST, policy, record_of(iteration + 1))
            curve.append(row)
            for key, value in row.items():
                writer.add_scalar(key, value, iteration)
            now = time.perf_counter()
            left_s = (now - start) / (iteration + 1 - first) * (total - iteration - 1)
            logger.info("%s", told(row, iteration, total, left_s))
            over = stop_after_s is not None and now - start > stop_after_s
            if now - saved > config.checkpoint_s or over:
                save(iteration + 1)
                saved = now
            if over:
                return policy
    save(total)
    return load_checkpoint(folder / BEST)[0]


def told(row: Mapping[str, float], iteration: int, total: int, left_s: float) -> str:
    """An iteration in one line, for people: how far training is, and what was found, to three digits."""
    values = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in row.items() if name != "seconds")
    return f"iteration {iteration + 1} of {total}, {left_s / 60:.0f} min left: {values}"


def _read_curve(path: Path, rows: int) -> list[dict[str, float]]:
    if not rows or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()[:rows]]


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class _WarmStart:
    """The imitation phase: the pool of problems with their best slots, and the steps on it."""

    def __init__(self, policy: Policy, config: PretrainConfig) -> None:
        self._policy = policy
        self._config = config
        self._pool: list[Elite] = []

    def rehearse(
        self,
        optimizer: torch.optim.Optimizer,
        rng: np.random.Generator,
        tasks: Sequence[_Task],
        generator: torch.Generator,
    ) -> dict[str, float]:
        """Steps on the pool beside PPO, which alone would make the samples of a problem too much alike."""
        for task in tasks:
            self._add(task, generator, rng)
        return self._steps(optimizer, rng)

    def _add(self, task: _Task, generator: torch.Generator, rng: np.random.Generator) -> None:
        self._pool.append(draw_elite(self._policy, task.view, task.rewarder, self._config.imitation, generator, rng))
        self._pool = self._pool[-self._config.imitation.pool :]

    def refill(self, iterations: int, captured: Sequence[OpGraph]) -> None:
        """Fills the pool after a resumption, with the best slots under the present weights."""
        for iteration in range(max(0, iterations - self._config.imitation.pool // self._config.problems), iterations):
            self._draw(iteration, captured)

    def _draw(self, iteration: int, captured: Sequence[OpGraph]) -> np.random.Generator:
        config = self._config
        rng = np.random.default_rng([config.seed, iteration])
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + iteration)
        for task in _draw_tasks(config, rng, captured):
            self._add(task, generator, rng)
        return rng

    def iterate(
        self, optimizer: torch.optim.Optimizer, iteration: int, captured: Sequence[OpGraph]
    ) -> dict[str, float]:
        """Draws new problems, then makes steps on the pool."""
        rng = self._draw(iteration, captured)
        done = iteration / self._config.imitation_iterations
        _set_rate(optimizer, self._config.imitation.learning_rate * (1.0 - 0.8 * done))
        return {"iteration": float(iteration), **self._steps(optimizer, rng)}

    def _steps(self, optimizer: torch.optim.Optimizer, rng: np.random.Generator) -> dict[str, float]:
        config = self._config.imitation
        totals: dict[str, float] = {}
        for _ in range(config.steps):
            optimizer.zero_grad()
            for k in rng.integers(len(self._pool), size=config.batch).tolist():
                loss, metrics = imitation_loss(self._policy, self._pool[k], config)
                (loss / config.batch).backward()
                for key, value in metrics.items():
                    totals[key] = totals.get(key, 0.0) + value / (config.batch * config.steps)
            torch.nn.utils.clip_grad_norm_(self._policy.parameters(), self._config.ppo.max_grad_norm)
            optimizer.step()
        return totals


def _draws(number: int, large: float) -> list[Callable[[np.random.Generator, Split], PlanningProblem]]:
    """What each of so many problems is drawn by: the first ones are of the large scale."""
    first = round(large * number)
    return [draw_large_problem if i < first else draw_problem for i in range(number)]


def _draw_tasks(config: PretrainConfig, rng: np.random.Generator, captured: Sequence[OpGraph]) -> list[_Task]:
    tasks = []
    for draw in _draws(config.problems, config.large):
        problem = draw(rng, "train") if draw is draw_large_problem else draw_problem(rng, "train", captured)
        tasks.append(_task(problem, int(rng.integers(config.max_groups // 3, config.max_groups + 1))))
    return tasks


def _iterate(
    learner: Ppo, warm_start: _WarmStart, config: PretrainConfig, iteration: int, captured: Sequence[OpGraph]
) -> dict[str, float]:
    rng = np.random.default_rng([config.seed, iteration])
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + iteration)
    batches = []
    tasks = _draw_tasks(config, rng, captured)
    for task in tasks:
        rollout = learner.policy.sample([task.view], config.episodes, generator, repeats=config.repeats)[0]
        batches.append(Batch(rollout, task.rewarder.rewards(task.rewarder.values(rollout))))
    metrics = learner.update(batches, generator)
    if config.imitation_iterations:
        metrics |= warm_start.rehearse(learner.optimizer, rng, tasks[: config.problems // 3], generator)
    return {
        "iteration": float(iteration),
        "mean_reward": float(np.mean([float(b.rewards.mean()) for b in batches])),
        "best_reward": float(np.mean([float(b.rewards.max()) for b in batches])),
        **metrics,
    }


def validate(policy: Policy, tasks: Sequence[_Task]) -> dict[str, float]:
    """Mean over problems of the reward of the greedy episode, of all, and of the best, at least `_NO_PLAN` each."""
    generator = torch.Generator().manual_seed(0)
    rewards = []
    for task in tasks:
        drawn = propose(policy, task.view, task.rewarder, _VALIDATION_EPISODES, generator, greedy_first=True)
        values = np.array([value for value, _ in drawn])
        rewards.append(task.rewarder.rewards(values).clamp(min=_NO_PLAN))
    return {
        "validation_greedy_reward": float(np.mean([float(r[0]) for r in rewards])),
        "validation_mean_reward": float(np.mean([float(r.mean()) for r in rewards])),
        "validation_best_reward": float(np.mean([float(r.max()) for r in rewards])),
    }
