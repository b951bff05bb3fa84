"""The `drl` planner: the pre-trained policy's samples, PPO on the problem at hand, and refinement by local search.

In this order, each while the budget lasts, best plan so far at any time:

1. zero-shot: one batch of samples from the policy;
2. baselines: the plans of cheap planners, so that the result is never worse than theirs;
3. fine-tuning: PPO on the problem;
4. refinement: annealing on the full simulation (`planners.annealing`), from the best of all these plans.

The breakdown of the result keeps apart what each part found. Left out: measuring plans on the real cluster (pass a
`Rewarder` to `train.train_on_problem` for that).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from drlpp.agent.checkpoint import initial_policy, load_checkpoint
from drlpp.agent.coarse import CoarseProblem, coarse_problem
from drlpp.agent.features import ProblemView, problem_view
from drlpp.agent.policy import Policy
from drlpp.agent.ppo import PpoConfig
from drlpp.agent.rollout import Rewarder
from drlpp.agent.train import Clock, Iteration, TrainConfig, train_on_problem
from drlpp.errors import InputError
from drlpp.planners.annealing import anneal, offer_starts
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.search import Search
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator

MAX_GROUPS = 200
"""Larger graphs are coarsened to this many groups of ops for the policy; refinement works on ops."""
_OFFERED = 8
"""Best samples of a batch that are evaluated on the ops themselves."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DrlConfig:
    """Settings of the planner.

    Attributes:
        policy_only: stop after the policy (zero-shot and fine-tuning); no baselines, no refinement.
        episodes: samples per batch.
        iterations: PPO iterations at most; None as many as fit in `learning_share`. With a number, and a budget that
            is not reached, the result depends on the seed alone.
        learning_share: part of the budget for zero-shot and fine-tuning.
        baseline_share: part of the budget for the baselines.
        weights: file of weights to start from; None for those of the package.
        log_dir: where learning curves for tensorboard go; None for nowhere.

    Raises:
        InputError: a value is out of range.
    """

    policy_only: bool = False
    episodes: int = 64
    iterations: int | None = None
    learning_share: float = 0.4
    baseline_share: float = 0.2
    weights: Path | None = None
    log_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.episodes < 8:
            raise InputError(f"episodes is {self.episodes}: a batch needs at least 8")
        if not (0 <= self.learning_share <= 1 and 0 <= self.baseline_share <= 1):
            raise InputError(
                f"learning_share {self.learning_share} and baseline_share {self.baseline_share}: must be from 0 to 1"
            )


class DrlPlanner:
    """The learned planner."""

    name = "drl"
    summary = "learned agent: pre-trained policy, PPO on the problem, local refinement"

    def __init__(self, config: DrlConfig | None = None) -> None:
        self.config = config if config is not None else DrlConfig()

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        """Plans; see the module's docstring. Raises InputError if the file of weights cannot be read."""
        return _Run(self.config, problem, budget, seed, progress).solve()


class _Run:
    """One call of `DrlPlanner.solve`."""

    def __init__(
        self, config: DrlConfig, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress
    ) -> None:
        self.config = config
        self.seed = seed
        self.budget = budget
        self.search = Search(DrlPlanner.name, problem, budget, seed, progress)
        self.coarse: CoarseProblem = coarse_problem(problem, MAX_GROUPS)
        self.view: ProblemView = problem_view(self.coarse.problem)
        evaluator, objective = Evaluator(self.coarse.problem), problem.objective
        steps = problem.training.num_microbatches if objective == "iteration-time" else 1
        self.rewarder = Rewarder(lambda a: evaluator.evaluate(a).score(objective), self.view.tables.ideal_s * steps)
        self.generator = torch.Generator().manual_seed(seed)
        self.clock = Clock()
        self.curve: list[Iteration] = []
        self.found: dict[str, float] = {}

    def solve(self) -> PlanResult:
        policy = load_checkpoint(self.config.weights)[0] if self.config.weights else initial_policy(self.seed)
        learning = self.budget.part(1.0 if self.config.policy_only else self.config.learning_share)
        self._zero_shot(policy)
        self.found["zero_shot_best_s"] = self.search.best_value
        if not self.config.policy_only:
            self._baselines()
        self._fine_tune(policy, learning)
        if not self.config.policy_only and not self.budget.spent:
            before = self.budget.elapsed_s
            anneal(self.search, np.random.default_rng(self.seed))
            self.found["refined_best_s"] = self.search.best_value
            self.found["refinement_s"] = self.budget.elapsed_s - before
        breakdown = {
            **self.found,
            "sampling_s": self.clock.sampling_s,
            "evaluation_s": self.clock.evaluation_s,
            "learning_s": self.clock.learning_s,
            "iterations": float(len(self.curve)),
        }
        finite = {key: value for key, value in breakdown.items() if math.isfinite(value)}
        return dataclasses.replace(self.search.result(finite), curve=tuple(self.curve))

    def _zero_shot(self, policy: Policy) -> None:
        before = self.budget.elapsed_s
        rollout = policy.sample([self.view], self.config.episodes, self.generator, greedy_first=True)[0]
        sampled = self.budget.elapsed_s
        values = self.rewarder.values(rollout)
        self._offer(rollout.assignments(), values)
        self.clock.sampling_s += sampled - before
        self.clock.evaluation_s += self.budget.elapsed_s - sampled

    def _offer(self, assignments: list[Assignment], values: NDArray[np.float64]) -> None:
        for i in np.argsort(values, kind="stable")[:_OFFERED]:
            self.search.offer(self.coarse.expand(assignments[i]))

    def _baselines(self) -> None:
        ...

    def _fine_tune(self, policy: Policy, budget: Budget) -> None:
        ...
