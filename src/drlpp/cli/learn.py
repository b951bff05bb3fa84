"""``drlpp train-policy``: pre-train the policy that `drl` starts from."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from drlpp.cli import inputs
from drlpp.cli.terminal import err, print_json, say

_EPILOG = """Examples:

drlpp train-policy -o runs/policy --seed 0

drlpp train-policy -o runs/policy --resume --hours 1"""


def register(app: typer.Typer) -> None:
    app.command("train-policy", epilog=_EPILOG)(train_policy)


def train_policy(
    folder: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for checkpoint and curves.", show_default=False)
    ],
    iterations: Annotated[int, typer.Option("--iterations", help="Iterations of PPO.", min=1)] = 260,
    imitation_iterations: Annotated[
        int, typer.Option("--imitation-iterations", help="Iterations of the warm start before PPO.", min=0)
    ] = 760,
    models: Annotated[
        bool, typer.Option("--models/--generated-only", help="Also train on captured timm and transformers models.")
    ] = True,
    hours: Annotated[
        float | None, typer.Option("--hours", help="Stop after this long, with a checkpoint to resume from.", min=0.0)
    ] = None,
    seed: inputs.Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")] = False,
    as_json: inputs.AsJson = False,
) -> None:
    """Pre-train the policy on many models and clusters; watch with `tensorboard --logdir FOLDER`."""
    from rich.logging import RichHandler

    from drlpp.agent.corpus import TRAINING_MODELS
    from drlpp.agent.pretrain import BEST, PretrainConfig, pretrain
    from drlpp.threads import one_thread

    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=err(), show_path=False)]
    )
    config = PretrainConfig(seed=seed, iterations=iterations, imitation_iterations=imitation_iterations)
    captured = [inputs.load_graph(model) for model in TRAINING_MODELS] if models else []
    with one_thread():
        pretrain(
            folder,
            config,
            captured=captured,
            note={"command": " ".join(["drlpp", *sys.argv[1:]]), "commit": _commit()},
            resume=resume,
            stop_after_s=None if hours is None else hours * 3600,
        )
    if as_json:
        print_json({"status": "ok", "checkpoint": str(folder / BEST), "config": dataclasses.asdict(config)})
    say(f"policy written to {folder / BEST}; plan with it: drlpp plan ... --weights {folder / BEST}")


def _commit() -> str:
    """The commit of the code that runs; empty outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
