"""The `drl` planner: the pre-trained policy's samples, PPO on the problem at hand, and refinement by local search.

In this order, each while the budget lasts, best plan so far at any time:

1. zero-shot: one batch of samples from the policy. If the uniform split does not fit in memory, the baseline that
   knows recomputation runs first, so that a feasible plan exists;
2. baselines: the plans of cheap planners, so that the result is never worse than theirs;
3. annealing, as the planner of this name goes about it: from one pool, which finds some plans that no other way finds;
4. fine-tuning: PPO on the problem;
5. refinement: annealing on the full simulation, from the best of all these plans with different devices (`islands`).

The breakdown of the result keeps apart what each part found. Left out: measuring plans on the real cluster (pass a
`Rewarder` to `train.train_on_problem` for that).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from drlpp.agent.networks.policy import Policy
from drlpp.agent.networks.weights_file import initial_policy, load_checkpoint, untrained_policy
from drlpp.agent.planner.restarts import RestartParams, Start, Starts, reaches, refine
from drlpp.agent.sampling.proposals import ProposalParams, propose
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.fine_tune import Clock, Iteration, TrainConfig, train_on_problem
from drlpp.agent.training.ppo import PpoConfig
from drlpp.agent.view.coarse import MAX_GROUPS, coarse_problem
from drlpp.agent.view.features import problem_view
from drlpp.errors import InputError
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.baselines.uniform import known_splits, uniform_assignment
from drlpp.planners.bounds.lower_bound import lower_bound
from drlpp.planners.break_even import BEST_BASELINE, DATA_PARALLEL, break_even, data_parallel_value_s, describe
from drlpp.planners.consecutive.dynamic_program import first_splits
from drlpp.planners.local_search.annealing import anneal, offer_starts
from drlpp.planners.parameters import UNTRAINED
from drlpp.planners.registry import get_planner
from drlpp.planners.search import QUICK_SCHEDULES, Search, is_long, offer_fitting_splits
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from drlpp.threads import one_thread
from drlpp.units import format_time

BASELINES = ("pipedream-contracted", "greedy", "metis", "dapple", "piper", "pipedream", "milp")
"""Planners whose plans are candidates, besides data parallelism, the uniform split and the dynamic program; those that
find most per second first."""
QUICK_BASELINES = BASELINES[:3]
THRIFTY = "piper"
"""Of the baselines the one that knows recomputation."""
COST_PARTS = ("sampling", "evaluation", "learning", "baselines", "annealing", "refinement")
"""Activities whose seconds the breakdown tells."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DrlConfig:
    """Settings of the planner.

    Attributes:
        policy_only: stop after the policy (zero-shot and fine-tuning); no baselines, no refinement.
        episodes: samples per batch.
        iterations: PPO iterations at most; None as many as fit in `learning_share`. With a number, and a budget that
            is not reached, the result depends on the seed alone.
        sampling_share: a batch of samples is smaller if it would take more than this part of the time that is left.
        baseline_share: part of what is left for the baselines after the dynamic program, which has as much time as in
            `annealing`.
        annealing_share: part of what is left then, for annealing from one pool.
        learning_share: part of what is left then, for fine-tuning.
        short_budget_s: with less than this, fine-tuning and the slower baselines are left out: refinement finds more
            per second.
        thrifty_share: part of the budget of the baseline that recomputes, where memory is short.
        each_baseline_share: each baseline has this part of the time that is left for all; of all time that is left
            while no plan fits.
        probe: samples of the first batch, which shows how many more there is time for.
        probe_cost: a sample of so small a batch takes at least this many times as long as one of a large batch.
        bound_cost: the lower bound, which ends the search early, is looked for where so many evaluations would fit.
        bound_share: part of what is left, for the lower bound.
        offered: best samples of a batch that are evaluated on the ops themselves.
        hopeless: a sample that takes this many times the best so far under 1F1B is not tried under other schedules,
            which are up to 1.3 times as fast.
        update_cost: a PPO iteration takes about this many times as long as sampling its episodes; measured from the
            second one on.
        max_groups: larger graphs are coarsened to this many groups of ops for the policy.
        proposals: of a batch of samples.
        restarts: of the refinement; its annealing is that of one pool, too.
        ppo: settings of the fine-tuning.
        weights: file of weights to start from; None for those of the package, `UNTRAINED` for a policy that learned
            nothing.
        log_dir: where learning curves for tensorboard go; None for nowhere.

    Raises:
        InputError: a value is out of range.
    """

    policy_only: bool = False
    episodes: int = 64
    iterations: int | None = None
    sampling_share: float = 0.15
    baseline_share: float = 0.25
    annealing_share: float = 0.25
    learning_share: float = 0.1
    short_budget_s: float = 8.0
    thrifty_share: float = 0.3
    each_baseline_share: float = 0.5
    probe: int = 2
    probe_cost: float = 2.0
    bound_cost: float = 200.0
    bound_share: float = 0.02
    offered: int = 8
    hopeless: float = 1.5
    update_cost: float = 5.0
    max_groups: int = MAX_GROUPS
    proposals: ProposalParams = dataclasses.field(default_factory=ProposalParams)
    restarts: RestartParams = dataclasses.field(default_factory=RestartParams)
    ppo: PpoConfig = dataclasses.field(default_factory=PpoConfig)
    weights: Path | None = None
    log_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.episodes < 8:
            raise InputError(f"episodes is {self.episodes}: a batch needs at least 8")
        shares = ("sampling_share", "baseline_share", "annealing_share", "learning_share")
        if wrong := [name for name in shares if not 0 <= getattr(self, name) <= 1]:
            raise InputError(f"{wrong[0]} {getattr(self, wrong[0])}: it must be from 0 to 1")


class DrlPlanner:
    """The learned planner.

    Args:
        config: settings.

    Raises:
        InputError: the file of weights cannot be read.
    """

    name = "drl"
    summary = "learned agent: pre-trained policy, PPO on the problem, local refinement"

    def __init__(self, config: DrlConfig | None = None) -> None:
        self.params = config if config is not None else DrlConfig()
        file = self.params.weights
        self._weights = None if file in (None, UNTRAINED) else load_checkpoint(file)[0]

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        """Plans; see the module's docstring."""
        policy = untrained_policy(seed) if self.params.weights == UNTRAINED else initial_policy(seed)
        if self._weights is not None:
            policy = Policy(self._weights.config)
            policy.load_state_dict(self._weights.state_dict())
        with one_thread():
            return _Run(self.params, problem, budget, seed, progress).solve(policy)


class _Run:
    """One call of `DrlPlanner.solve`."""

    def __init__(
        self, config: DrlConfig, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress
    ) -> None:
        self.config = config
        self.problem = problem
        self.budget = budget
        self.long = budget.seconds >= config.short_budget_s
        self.seed = seed
        self.search = Search(DrlPlanner.name, problem, budget, seed, progress, parameters=config)
        self.coarse = coarse_problem(problem, config.max_groups)
        self.view = problem_view(self.coarse.problem)
        self.evaluator = Evaluator(self.coarse.problem)
        steps = problem.objective.microbatches(problem.training.num_microbatches)
        self.rewarder = Rewarder(self._value, self.view.tables.ideal_s * steps)
        self.generator = torch.Generator().manual_seed(seed)
        self.clock = Clock()
        self.curve: list[Iteration] = []
        self.found: dict[str, float] = {}
        self.policy_s = math.inf
        self.offer_s = self.episode_s = self.judging_s = self.bound_s = 0.0

    def _value(self, assignment: Assignment) -> float:
        before, best = self.budget.elapsed_s, self.rewarder.best
        schedules = QUICK_SCHEDULES[:1] if is_long(self.problem, assignment) else None
        give_up_s = math.inf if best is None else self.config.hopeless * best[0]
        value = self.evaluator.evaluate(assignment, schedules, give_up_s).score(self.problem.objective)
        self.judging_s += self.budget.elapsed_s - before
        return value

    def solve(self, policy: Policy) -> PlanResult:
        """All steps, as the budget allows."""
        alone = self.config.policy_only
        starts = Starts(self.problem, lambda: self._more(policy, self.config.episodes))
        fitting = [] if alone else self._fitting()
        if not self._out_of_time:
            starts.add(self._zero_shot(policy))
        if not alone and not self._out_of_time:
            rng = np.random.default_rng(self.seed)
            one_pool = Search(DrlPlanner.name, self.problem, self.budget, self.seed, evaluator=self.search.evaluator)
            starts.add(self._baselines(one_pool, rng, fitting))
            self._find_bound()
            if self.long and not self._optimal:
                starts.add(self._annealing(one_pool, rng))
        if not self._out_of_time and (alone or (self.long and not self._optimal)):
            self._fine_tune(policy, self.budget.part(1.0 if alone else self.config.learning_share))
        if not alone and not self._out_of_time:
            if self.curve:
                starts.add(self._more(policy, self.config.episodes))
            self._refine(starts)
        self.found["refined_best_s"] = self.search.best_value
        self.found["data_parallel_s"] = data_parallel_value_s(self.problem, self.search.evaluator)
        breakdown = {
            **self.found,
            "sampling_s": self.clock.sampling_s,
            "evaluation_s": self.clock.evaluation_s,
            "learning_s": self.clock.learning_s,
            "iterations": float(len(self.curve)),
        }
        finite = {key: value for key, value in breakdown.items() if math.isfinite(value)}
        return dataclasses.replace(self.search.result(finite, self._notes(finite)), curve=tuple(self.curve))

    @property
    def _out_of_time(self) -> bool:
        """There is a plan, and no time for a better one."""
        return self.search.best is not None and self.budget.spent

    def _notes(self, breakdown: Mapping[str, float]) -> dict[str, str]:
        """What the plan file says of the cost of learning."""
        parts = {name: breakdown.get(f"{name}_s", 0.0) for name in COST_PARTS}
        others = {DATA_PARALLEL: self.found["data_parallel_s"]}
        if "baseline_best_s" in self.found:
            others[BEST_BASELINE] = self.found["baseline_best_s"]
        steps = break_even(self.problem, self.budget.elapsed_s, self.search.best_value, others)
        return {
            "planning_took": ", ".join(f"{name} {format_time(seconds)}" for name, seconds in parts.items()),
            "planning_repaid_after": describe(steps),
        }

    def _fitting(self) -> list[Start]:
        """What is known, and what splits made for the memory and the thrifty baseline give, where no uniform split
        fits."""
        before = self.budget.elapsed_s
        found = [Start(self.search.offer(a), a, "baselines") for a in known_splits(self.problem)]
        if self.search.best is None:
            stages = min(self.problem.cluster.num_devices, self.problem.graph.num_ops)
            self.search.offer(uniform_assignment(self.problem, stages))
        short_of_memory = self.search.best is None
        found += [Start(self.search.offer(a), a, "baselines") for a in first_splits(self.problem)]
        if short_of_memory:
            splits = [Start(self.search.offer(a), a, "baselines") for a in offer_fitting_splits(self.search)]
            found += [start for start in splits if start.value_s <= self.search.best_value]
            if not self._out_of_time:
                found += self._found_by(THRIFTY, self.budget.part(self.config.thrifty_share))
        self.found["baselines_s"] = self.budget.elapsed_s - before
        return found

    def _found_by(self, name: str, budget: Budget) -> list[Start]:
        """The plan of a baseline, offered; empty if it has none."""
        plan = get_planner(name).solve(self.problem, budget, self.seed).plan
        if plan is None:
            return []
        return [Start(self.search.offer(plan.assignment), plan.assignment, "baselines")]

    def _zero_shot(self, policy: Policy) -> list[Start]:
        """A probe of a few samples, the first one greedy, and as many more as there is time for."""
        starts = self._sample(policy, self.config.probe, greedy_first=True)
        self.episode_s /= self.config.probe_cost
        starts += self._more(policy, self.config.episodes - self.config.probe)
        while self.config.policy_only and (more := self._more(policy, self.config.episodes - len(starts))):
            starts += more  # the probe takes samples for dearer than they are in a large batch
        self.found["zero_shot_best_s"] = self.found["policy_best_s"] = self.policy_s
        return starts

    def _more(self, policy: Policy, most: int) -> list[Start]:
        """As many samples as fit in their part of the time that is left, at most so many."""
        share = 1.0 if self.config.policy_only else self.config.sampling_share
        number = min(most, int(share * self.budget.left_s / self.episode_s))
        return self._sample(policy, number) if number > 1 else []

    def _sample(self, policy: Policy, episodes: int, greedy_first: bool = False) -> list[Start]:
        """Draws a batch of samples and offers the best of them; `policy_s` is the best of all that fit."""
        before, judged = self.budget.elapsed_s, self.judging_s
        drawn = propose(
            policy,
            self.view,
            self.rewarder,
            episodes,
            self.generator,
            greedy_first=greedy_first,
            params=self.config.proposals,
        )
        offering = self.budget.elapsed_s
        starts = [Start(value, self.coarse.expand(assignment), "policy") for value, assignment in drawn]
        best = sorted(starts, key=lambda start: start.value_s)[: self.config.offered]
        for start in best:
            self.policy_s = min(self.policy_s, self._offer(start.assignment))
        judging_s = self.judging_s - judged
        self.clock.sampling_s += offering - before - judging_s
        self.clock.evaluation_s += self.budget.elapsed_s - offering + judging_s
        self.episode_s = max(1e-9, offering - before) / episodes
        self.offer_s = (self.budget.elapsed_s - offering) / len(best)
        return starts

    def _baselines(self, one_pool: Search, rng: np.random.Generator, fitting: list[Start]) -> list[Start]:
        """What cheap planners find: the starts of annealing, offered to its search, and the plans of `BASELINES`.

        Args:
            fitting: what was found before.
        """
        before = self.budget.elapsed_s
        offer_starts(one_pool, rng, self.config.restarts.annealing)
        found = [Start(value, assignment, "baselines") for value, assignment in one_pool.pool]
        self._hand_over(one_pool)
        share = self.budget.part(self.config.baseline_share)
        plans = list(fitting)
        for name in BASELINES if self.long else QUICK_BASELINES:
            allowed = share if self.search.best is not None else self.budget
            if allowed.spent:
                break
            if name == "milp" and importlib.util.find_spec("highspy") is None:
                continue
            plans += self._found_by(name, allowed.part(self.config.each_baseline_share))
        for plan in plans:
            if one_pool.best is None:
                one_pool.offer(plan.assignment)
        self.found["baseline_best_s"] = min([one_pool.best_value, *(plan.value_s for plan in plans)])
        self.found["baselines_s"] += self.budget.elapsed_s - before
        return found + plans

    def _annealing(self, one_pool: Search, rng: np.random.Generator) -> list[Start]:
        """Goes on from the starts of annealing as the planner of this name does, for a part of its time."""
        before = self.budget.elapsed_s
        one_pool.budget = self.budget.part(self.config.annealing_share)
        anneal(one_pool, rng, self.config.restarts.annealing)
        self._hand_over(one_pool)
        self.found["annealing_best_s"] = one_pool.best_value
        self.found["annealing_s"] = self.budget.elapsed_s - before
        return [Start(value, assignment, "annealing") for value, assignment in one_pool.pool]

    def _hand_over(self, one_pool: Search) -> None:
        if one_pool.best is not None:
            self.search.offer(one_pool.best)

    def _find_bound(self) -> None:
        if self.budget.left_s > self.config.bound_cost * self.offer_s:
            self.bound_s = lower_bound(self.problem, self.budget.part(self.config.bound_share)).value_s

    @property
    def _optimal(self) -> bool:
        return reaches(self.search.best_value, self.bound_s)

    def _refine(self, starts: Starts) -> None:
        before = self.budget.elapsed_s
        rng = np.random.default_rng(self.seed)
        found = refine(self.search, starts, self.offer_s, self.bound_s, rng, self.config.restarts)
        self.found |= {f"refined_from_{origin}_s": value for origin, value in found.items()}
        self.found["refinement_s"] = self.budget.elapsed_s - before

    def _fine_tune(self, policy: Policy, budget: Budget) -> None:
        """PPO on the problem while `budget` lasts."""
        iteration_s = self.config.update_cost * self.episode_s * self.config.episodes
        if self.config.iterations == 0 or budget.left_s < iteration_s:
            return
        best = self.found["policy_best_s"]
        writer = None
        if self.config.log_dir:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(log_dir=str(self.config.log_dir))

        def on_iteration(row: Iteration) -> bool:
            nonlocal best
            if self.rewarder.best is not None:
                best = min(best, self._offer(self.coarse.expand(self.rewarder.best[1])))
            if writer is not None:
                for key, value in row.items():
                    writer.add_scalar(key, value, int(row["iteration"]))
            self.search.progress("learning", self.search.fraction, self.search.best_value)
            return budget.left_s > row["iteration_s"]

        train = TrainConfig(episodes=self.config.episodes, iterations=self.config.iterations, ppo=self.config.ppo)
        self.curve = train_on_problem(policy, self.view, self.rewarder, train, self.generator, on_iteration, self.clock)
        self.found["policy_best_s"] = best
        if writer is not None:
            writer.close()

    def _offer(self, assignment: Assignment) -> float:
        """The value of an assignment of the ops, offered; inf if it does not fit."""
        value = self.search.offer(assignment)
        return value if self.search.last_feasible else math.inf
