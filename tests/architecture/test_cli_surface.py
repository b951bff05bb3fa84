"""The verbs and options of the command line, as documented; scripts of users depend on them."""

import typer

from drlpp.cli.main import app

COMMON = {"--budget", "--cluster", "--num-microbatches", "--objective", "--optimizer", "--seed"}
COMMON |= {"--global-batch", "--micro-batch-size", "--precision", "--parallelism"}
SURFACE = {
    "plan": COMMON
    | {
        "--for",
        "--json",
        "--layers",
        "--log-dir",
        "--num-stages",
        "--output",
        "--planner",
        "--policy-only",
        "--weights",
        "--context-length",
        "--sequences",
    },
    "compare": COMMON
    | {
        "--context-length",
        "--html",
        "--json",
        "--planners",
        "--plans-dir",
        "--policy-only",
        "--sequences",
        "--weights",
    },
    "bench": {
        "--budget",
        "--cpu-time",
        "--json",
        "--list",
        "--markdown",
        "--output",
        "--planners",
        "--policy-only",
        "--parallelism",
        "--precision",
        "--seeds",
        "--weights",
    },
    "whatif": COMMON | {"--json", "--planner"},
    "calibrate": {"--cluster-out", "--json", "--output", "--trace"},
    "simulate": {"--json", "--trace"},
    "validate": set(),
    "devices": {"--json"},
    "run": {
        "--adapt",
        "--checkpoint",
        "--checkpoint-every",
        "--data",
        "--elastic",
        "--emulate",
        "--emulate-cluster",
        "--emulate-events",
        "--json",
        "--learning-rate",
        "--max-restarts",
        "--memory",
        "--precision",
        "--restart-in-place",
        "--seed",
        "--steps",
        "--trace",
        "--verify",
    },
    "train-policy": {
        "--cluster",
        "--emulate",
        "--episodes",
        "--hours",
        "--imitation-iterations",
        "--iterations",
        "--json",
        "--models",
        "--num-microbatches",
        "--optimizer",
        "--output",
        "--resume",
        "--reward",
        "--seed",
        "--start-from",
    },
    "capture": {"--output"},
    "profile": {"--cache", "--device", "--device-type", "--output", "--processes", "--repeats"},
    "export": {"--output", "--to"},
    "report": {"--comparison", "--measured", "--output", "--run"},
    "clusters": {"--json"},
    "planners": {"--json"},
    "versions": {"--json"},
}


def options(command):
    return {o for p in command.params for o in p.opts if o.startswith("--") and o != "--help"}


def test_verbs_and_options():
    commands = typer.main.get_command(app).commands
    assert {name: options(c) for name, c in commands.items()} == SURFACE


def test_every_verb_has_help():
    for command in typer.main.get_command(app).commands.values():
        assert command.help
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name not in ("help", "learning_rate"):
                assert parameter.help, f"{command.name} {parameter.name}"
