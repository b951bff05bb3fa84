"""Training on one problem in a folder: resumable, with the simulated reward or with times measured on real ranks.

Files in the folder: ``checkpoint.safetensors`` (weights, optimizer, record; `drlpp plan --weights` starts from it),
``curve.jsonl`` (one row per iteration), ``measurements.jsonl`` (one row per measured plan), ``plan.json`` (the best).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import torch

from drlpp._version import __version__
from drlpp.agent.networks.weights_file import initial_policy, load_checkpoint, restore_optimizer, save_checkpoint
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.fine_tune import Clock, Iteration, OnIteration, TrainConfig, train_on_problem
from drlpp.agent.training.measured_rewards import Measure, MeasuredValue
from drlpp.agent.training.modelled_rewards import ModelledValue, Run
from drlpp.agent.training.ppo import Ppo
from drlpp.agent.view.coarse import MAX_GROUPS, coarse_problem
from drlpp.agent.view.features import ProblemView, problem_view
from drlpp.errors import InputError
from drlpp.files import write_atomically
from drlpp.graph import graph_hash
from drlpp.plan import Provenance, save_plan
from drlpp.plan.assignment import Assignment
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from drlpp.threads import one_thread

CHECKPOINT = "checkpoint.safetensors"
CURVE = "curve.jsonl"
MEASUREMENTS = "measurements.jsonl"
PLAN = "plan.json"
_SEEDS = 1_000_003

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What training on a problem found, and what it took.

    Attributes:
        best_value_s: seconds of a step of the best plan, simulated or measured.
        predicted_s: of the same plan, simulated.
        plan: its file.
        iterations: PPO iterations, those of earlier runs included.
        num_measured, num_failed: plans that ran, and that did not; 0 with the simulated reward.
        sampling_s, evaluation_s, learning_s: seconds by activity, those of earlier runs included.
    """

    best_value_s: float
    predicted_s: float
    plan: str
    iterations: int
    num_measured: int
    num_failed: int
    sampling_s: float
    evaluation_s: float
    learning_s: float


def train_in_folder(
    folder: Path,
    problem: PlanningProblem,
    config: TrainConfig,
    *,
    seed: int,
    measure: Measure | None = None,
    run: Run | None = None,
    resume: bool = False,
    on_iteration: OnIteration = lambda row: True,
) -> Outcome:
    """Trains the shipped policy on one problem; a checkpoint follows every iteration.

    What iteration i draws follows from (seed, i), so with rewards that do not change a resumed run is the run that
    was never stopped. The best plan is kept over all runs.

    Args:
        folder: made if it does not exist.
        measure: measures a plan; None for the simulated reward.
        run: in place of `measure`: measures a plan where that is worth it (`modelled_rewards`).
        resume: go on from the folder's checkpoint.
        on_iteration: called with each row of the curve; returns whether to go on.

    Raises:
        InputError: there is nothing to resume from, it is another problem's, or the objective cannot be measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    coarse = coarse_problem(problem, MAX_GROUPS)
    view = problem_view(coarse.problem)
    measured = None if measure is None else MeasuredValue(problem, measure, folder / MEASUREMENTS)
    if run is not None:
        measured = ModelledValue(problem, run, folder / MEASUREMENTS)
    evaluator = Evaluator(coarse.problem)

    def value(assignment: Assignment) -> float:
        if measured is not None:
            return measured(coarse.expand(assignment))
        return evaluator.evaluate(assignment).score(problem.objective)

    rewarder = Rewarder(value, view.tables.ideal_s * problem.training.num_microbatches)
    reward = "simulated" if measured is None else "measured" if run is None else "modelled"
    record: dict[str, Any] = {
        "graph": graph_hash(problem.graph),
        "cluster": problem.cluster.name,
        "num_microbatches": problem.training.num_microbatches,
        "optimizer": problem.training.optimizer,
        "reward": reward,
        "seed": seed,
        "version": __version__,
    }
    with one_thread():
        iterations, clock = _train(folder, view, rewarder, config, record, resume, on_iteration)
    if rewarder.best is None:
        raise InputError(f"iterations is {config.iterations}: at least one more than the checkpoint has is needed")
    assignment = coarse.expand(rewarder.best[1])
    provenance = Provenance(planner="drl", seed=seed, version=__version__, notes={"reward": reward})
    plan = Evaluator(problem).make_plan(assignment, provenance)
    save_plan(plan, folder / PLAN)
    return Outcome(
        best_value_s=rewarder.best[0],
        predicted_s=plan.prediction.iteration_time_s if plan.prediction else float("nan"),
        plan=str(folder / PLAN),
        iterations=iterations,
        num_measured=0 if measured is None else measured.num_measured,
        num_failed=0 if measured is None else measured.num_failed,
        **dataclasses.asdict(clock),
    )


def _train(
    folder: Path,
    view: ProblemView,
    rewarder: Rewarder,
    config: TrainConfig,
    record: dict[str, Any],
    resume: bool,
    on_iteration: OnIteration,
) -> tuple[int, Clock]:
    """Returns the number of iterations and the seconds by activity, those of earlier runs included."""
    seed = int(record["seed"])
    policy, clock = initial_policy(seed), Clock()
    curve: list[Iteration] = []
    learner = Ppo(policy, config.ppo)
    if resume:
        loaded, before, states = load_checkpoint(folder / CHECKPOINT)
        if different := [key for key, value in record.items() if before.get(key) != value]:
            key = different[0]
            raise InputError(
                f"{folder} was made with {key} {before.get(key)!r}, not {record[key]!r}: use another folder"
            )
        policy.load_state_dict(loaded.state_dict())
        restore_optimizer(learner.optimizer, states)
        clock = Clock(**before["clock"])
        curve = [json.loads(line) for line in (folder / CURVE).read_text().splitlines()[: int(before["iteration"])]]
        rewarder.value_of(Assignment.of_record(before["best"]))
    generator = torch.Generator().manual_seed(seed * _SEEDS + len(curve))

    def after(row: Iteration) -> bool:
        curve.append(row)
        state = {**record, "iteration": len(curve), "clock": dataclasses.asdict(clock), "best": _best(rewarder)}
        write_atomically(folder / CURVE, "".join(json.dumps(r) + "\n" for r in curve))
        save_checkpoint(folder / CHECKPOINT, policy, state, learner.optimizer)
        generator.manual_seed(seed * _SEEDS + len(curve))
        logger.info("iteration %d: mean reward %.4f", row["iteration"], row["mean_reward"])
        return on_iteration(row)

    train_on_problem(
        policy,
        view,
        rewarder,
        config,
        generator,
        after,
        clock,
        learner=learner,
        reference=initial_policy(seed),
        first=len(curve),
    )
    return len(curve), clock


def _best(rewarder: Rewarder) -> dict[str, Any]:
    if rewarder.best is None:
        raise InputError("the rewarder has seen no assignment: give the one that the training uses")
    return rewarder.best[1].record
