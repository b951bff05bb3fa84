"""``drlpp train-policy``: pre-train the policy that `drl` starts from, or train it on one problem."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_problem
from drlpp.cli.option_groups import grouped
from drlpp.cli.terminal import counter, err, print_json, say

if TYPE_CHECKING:
    from drlpp.agent.training.fine_tune import Iteration
    from drlpp.problem import PlanningProblem

_EPILOG = """Examples:

drlpp train-policy -o runs/policy --seed 0

drlpp train-policy -o runs/policy --resume --hours 1

drlpp train-policy timm:resnet18 --cluster my.yaml --reward measured -o runs/resnet18"""
_EMULATED_S = 0.5
_ITERATIONS = 120
_ITERATIONS_ON_PROBLEM = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneProblem:
    """The problem to train on, and how its plans are judged; without a model, there are many problems."""

    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Train on this model only. " + inputs.MODEL_HELP)] = ""
    cluster: Annotated[
        str | None, typer.Option("--cluster", "-c", help="With MODEL: YAML file or preset (see `drlpp clusters`).")
    ] = None
    reward: Annotated[
        Literal["simulated", "measured", "modelled"],
        typer.Option(
            "--reward",
            help="With MODEL: simulate plans, or run them on this machine's ranks: all of them, or those worth it.",
        ),
    ] = "simulated"
    emulate: Annotated[
        bool, typer.Option("--emulate", help="With --reward measured or modelled: waits in place of computing.")
    ] = False
    episodes: Annotated[int, typer.Option("--episodes", help="With MODEL: plans per iteration.", min=8)] = 16
    num_microbatches: inputs.NumMicrobatches = None
    optimizer: inputs.Optimizer = "momentum"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """How long the training is, and on what."""

    iterations: Annotated[
        int | None,
        typer.Option(
            "--iterations",
            help=f"Iterations of PPO [default: {_ITERATIONS}; {_ITERATIONS_ON_PROBLEM} with MODEL].",
            min=1,
        ),
    ] = None
    imitation_iterations: Annotated[
        int, typer.Option("--imitation-iterations", help="Iterations of the warm start before PPO.", min=0)
    ] = 480
    models: Annotated[
        bool, typer.Option("--models/--generated-only", help="Also train on captured timm and transformers models.")
    ] = True
    start_from: Annotated[
        Path | None, typer.Option("--start-from", help="Begin with these weights, not with random ones.")
    ] = None


def register(app: typer.Typer) -> None:
    app.command("train-policy", epilog=_EPILOG)(grouped(train_policy))


def train_policy(
    *,
    folder: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for checkpoint and curves.", show_default=False)
    ],
    one: OneProblem,
    length: Length,
    hours: Annotated[
        float | None, typer.Option("--hours", help="Stop after this long, with a checkpoint to resume from.", min=0.0)
    ] = None,
    seed: inputs.Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")] = False,
    as_json: inputs.AsJson = False,
) -> None:
    """Pre-train the policy on many models and clusters; or, with MODEL, train it on one problem.

    With --reward measured every candidate plan runs on real ranks of this machine, and the agent learns from the times
    that these take: no profile is needed. With --reward modelled only those run that may be better than all before; for
    the others the simulator answers, calibrated from what ran. Pre-training is watched with `tensorboard --logdir
    FOLDER`.
    """
    from rich.logging import RichHandler

    from drlpp.errors import InputError

    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=err(), show_path=False)]
    )
    if one.model and one.cluster is not None:
        check_problem(one.model, one.cluster)
    stop_after_s = None if hours is None else hours * 3600
    if one.model:
        if length.start_from is not None:
            raise InputError("--start-from is for training on many problems: leave MODEL out")
        if one.cluster is None:
            raise InputError(f"{one.model} needs devices: give --cluster")
        iterations = length.iterations or _ITERATIONS_ON_PROBLEM
        answer = _on_problem(folder, one, one.cluster, iterations, stop_after_s, seed, resume)
    else:
        if one.cluster is not None or one.reward != "simulated" or one.emulate:
            raise InputError("--cluster, --reward and --emulate are for one problem: name a MODEL")
        answer = _on_corpus(folder, length, stop_after_s, seed, resume)
    if as_json:
        print_json(answer)
    checkpoint = answer["checkpoint"]
    say(f"policy written to {checkpoint}; plan with it: drlpp plan ... --weights {checkpoint}")


def _on_corpus(folder: Path, length: Length, stop_after_s: float | None, seed: int, resume: bool) -> dict[str, Any]:
    from drlpp.agent.training.corpus import TRAINING_MODELS
    from drlpp.agent.training.pretrain import BEST, PretrainConfig, pretrain
    from drlpp.threads import one_thread

    config = PretrainConfig(
        seed=seed,
        iterations=length.iterations or _ITERATIONS,
        imitation_iterations=length.imitation_iterations,
    )
    captured = [inputs.load_graph(model) for model in TRAINING_MODELS] if length.models else []
    with one_thread():
        pretrain(
            folder,
            config,
            captured=captured,
            start_from=length.start_from,
            note={"command": " ".join(["drlpp", *sys.argv[1:]]), "commit": _commit()},
            resume=resume,
            stop_after_s=stop_after_s,
        )
    return {"status": "ok", "checkpoint": str(folder / BEST), "config": dataclasses.asdict(config)}


def _on_problem(
    folder: Path,
    one: OneProblem,
    cluster: str,
    iterations: int,
    stop_after_s: float | None,
    seed: int,
    resume: bool,
) -> dict[str, Any]:
    from drlpp.agent.training.fine_tune import TrainConfig
    from drlpp.agent.training.train_on_problem import CHECKPOINT, train_in_folder
    from drlpp.errors import InputError
    from drlpp.planners.base import Budget
    from drlpp.runtime.launch.job import RunOptions
    from drlpp.runtime.launch.plan_measurement import Trials

    if one.emulate and one.reward == "simulated":
        raise InputError("--emulate is a way of measuring: give --reward measured or modelled too")
    step = inputs.Step(num_microbatches=one.num_microbatches, optimizer=one.optimizer)
    problem = inputs.load_problem(one.model, cluster, "iteration-time", step)
    config = TrainConfig(episodes=one.episodes, repeats=2, iterations=iterations)
    budget = Budget(float("inf") if stop_after_s is None else stop_after_s)
    with contextlib.ExitStack() as stack:
        trials = None
        if one.reward != "simulated":
            options = RunOptions(
                steps=2, emulate=one.emulate, seed=seed, time_scale=_time_scale(problem) if one.emulate else None
            )
            trials = stack.enter_context(Trials(problem.cluster.num_devices, options))
        progress = stack.enter_context(counter(f"train-policy, {one.reward} reward"))

        def on_iteration(row: Iteration) -> bool:
            done = int(row["iteration"]) + 1
            progress(done, iterations, f"best {row['best_value_s']:.4g} s")
            return not budget.spent

        outcome = train_in_folder(
            folder,
            problem,
            config,
            seed=seed,
            measure=trials.measure if trials is not None and one.reward == "measured" else None,
            run=trials.trace if trials is not None and one.reward == "modelled" else None,
            resume=resume,
            on_iteration=on_iteration,
        )
    return {
        "status": "ok",
        "checkpoint": str(folder / CHECKPOINT),
        "reward": one.reward,
        "emulated": one.emulate,
        **dataclasses.asdict(outcome),
    }


def _time_scale(problem: PlanningProblem) -> float:
    """Emulated seconds per second: one device's whole step takes `_EMULATED_S` on the fastest type."""
    from drlpp.cost.problem_times import problem_times

    seconds = float(problem_times(problem).total_s.sum(axis=1).min()) * problem.training.num_microbatches
    return _EMULATED_S / seconds if seconds > 0 else 1.0


def _commit() -> str:
    """The commit of the code that runs; empty outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
