"""What the user types, made into objects: model, cluster, problem; and the options that several verbs share."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drlpp.cli.checks import is_graph_file
from drlpp.cli.terminal import say, working
from drlpp.generator_spec import PREFIX

if TYPE_CHECKING:
    from drlpp.cluster import Cluster
    from drlpp.graph import OpGraph
    from drlpp.planners.engines.engine import Engine
    from drlpp.problem import PlanningProblem

MODEL_HELP = (
    "timm:NAME, transformers:CLASS?key=value, FILE.py:callable, generated:NAME?key=number, or a graph file "
    "(drlpp JSON, PipeDream graph.txt, dnn-partitioning JSON, Piper JSON, PyTorch execution or Kineto trace)."
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
ClusterOption = Annotated[
    str, typer.Option("--cluster", "-c", help="YAML file or preset (see `drlpp clusters`).", show_default=False)
]
Budget = Annotated[float, typer.Option("--budget", help="Seconds of search per planner.", min=0.0)]
PolicyOnly = Annotated[bool, typer.Option("--policy-only", help="`drl`: the policy's own best sample.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="`drl`: start from this checkpoint of `train-policy`, or from `none`: a policy that learned nothing, with "
        "weights drawn from the seed.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.", min=0)]
ObjectiveName = Literal["iteration-time", "steady-state", "serving"]
ObjectiveOption = Annotated[
    ObjectiveName,
    typer.Option(
        "--objective",
        help="Seconds of one optimizer step; load of the busiest device per micro-batch; or the same of serving, per "
        "token of every sequence.",
    ),
]
OptionalObjective = Annotated[
    ObjectiveName | None,
    typer.Option(
        "--objective",
        help="Seconds of one optimizer step; load of the busiest device per micro-batch; or the same of serving, per "
        "token of every sequence [default: iteration-time; serving for vllm and sglang].",
        show_default=False,
    ),
]
NumMicrobatches = Annotated[
    int | None,
    typer.Option("--num-microbatches", help="Micro-batches per step [default: two per device, at least 8].", min=1),
]
Sequences = Annotated[
    int | None,
    typer.Option("--sequences", help="Serving: sequences at a time [default: those of the captured input].", min=1),
]
ContextLength = Annotated[
    int | None,
    typer.Option(
        "--context-length", help="Serving: tokens of each sequence in the cache [default: as captured].", min=1
    ),
]
GlobalBatch = Annotated[
    int | None,
    typer.Option(
        "--global-batch", help="Samples per step [default: micro-batch size x number of micro-batches].", min=1
    ),
]
MicroBatchSizes = Annotated[
    str,
    typer.Option(
        "--micro-batch-size",
        metavar="N[,N...]",
        help="Samples per micro-batch; of several, and of all that are usual if only --global-batch is given, the "
        "planner chooses [default: those of MODEL].",
        show_default=False,
    ),
]
OptimizerName = Literal["sgd", "momentum", "adamw"]
Optimizer = Annotated[OptimizerName, typer.Option("--optimizer", help="Decides the memory of its state.")]
PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
PrecisionOption = Annotated[
    PrecisionName | None,
    typer.Option(
        "--precision",
        help="Of products; bf16 and fp16 are mixed precision where parameters are float32 [default: that of MODEL].",
        show_default=False,
    ),
]
ParallelismOption = Annotated[
    str | None,
    typer.Option(
        "--parallelism",
        metavar="NAMES",
        help="What plans may use, of pp,dp,tp,sp,zero1: stages, replicas, groups that divide ops, and what is kept "
        "between divided ops, replicas that divide optimizer states [default: all that `drlpp run`, or the engine of "
        "--for, can do].",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
PlanFile = Annotated[
    Path, typer.Argument(metavar="PLAN", help="Plan file made by `drlpp plan -o`.", show_default=False)
]


def planner_list(names: str) -> list[str]:
    """Comma-separated names of planners, or ``all``, each once. Raises InputError if there is none."""
    from drlpp.errors import InputError
    from drlpp.solving import planner_names

    found = planner_names() if names == "all" else [n.strip() for n in names.split(",") if n.strip()]
    if not found:
        raise InputError("--planners names no planner: give at least one, see `drlpp planners`")
    return list(dict.fromkeys(found))


def parse_sizes(text: str) -> tuple[int, ...]:
    """``1,2,4`` -> micro-batch sizes; none for an empty text. Raises InputError."""
    from drlpp.errors import InputError

    words = [word.strip() for word in text.split(",") if word.strip()]
    if wrong := [word for word in words if not (word.isascii() and word.isdigit() and int(word))]:
        raise InputError(f"--micro-batch-size is {text!r}: {wrong[0]!r} is not a whole number of at least 1")
    return tuple(map(int, words))


def given_layers(text: str | None, planner: str | None, num_stages: int | None) -> tuple[int, ...]:
    """The layers of each stage that ``--layers`` gives: ``5,6x10,5`` is 5, ten times 6, and 5; empty without it.

    Raises:
        InputError: it is not a list of that form, or a planner or another number of stages is asked for as well.
    """
    from drlpp.errors import InputError

    if text is None:
        return ()
    counts: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", item.strip())
        if match is None or match[2] == "0":
            raise InputError(
                f"--layers {text!r}: {item.strip()!r} is no number of layers: write the layers of each stage, "
                "'5,6x10,5' for 5, ten times 6, and 5"
            )
        counts += [int(match[1])] * int(match[2] or 1)
    if planner is not None or num_stages not in (None, len(counts)):
        raise InputError("--layers gives the split itself: leave --planner and --num-stages out")
    return tuple(counts)


def load_graph(model: str, kernels: Literal["gpu", "cpu"] = "gpu", *, batch_axis: bool = False) -> OpGraph:
    """The operator graph of MODEL: read from a file, generated, or captured for GPUs or CPUs.

    Raises:
        GraphError, CaptureError: MODEL is not one.
    """
    from drlpp.graph.generate.by_name import generated_graph
    from drlpp.graph.readers import read_graph

    if is_graph_file(model):
        return read_graph(Path(model))
    if model.startswith(PREFIX):
        return generated_graph(model)
    from drlpp.capture import capture_graph

    with working(f"capturing {model}"):
        graph = capture_graph(model, kernels, batch_axis=batch_axis)
    say(f"captured {model}: {graph.num_ops} ops, {len(graph.edges)} edges")
    return graph


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What a training step consists of, and what plans of it may use."""

    num_microbatches: NumMicrobatches = None
    global_batch: GlobalBatch = None
    micro_batch_size: MicroBatchSizes = ""
    optimizer: Optimizer = "momentum"
    precision: PrecisionOption = None
    parallelism: ParallelismOption = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving:
    """What is served at a time."""

    sequences: Sequences = None
    context_length: ContextLength = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """What `drl` searches with."""

    policy_only: PolicyOnly = False
    weights: Weights = None


def parallelism_of(text: str | None, engine: Engine | None) -> frozenset[str]:
    """``pp,dp`` -> what plans may use; without a text all that the engine, or `drlpp run`, can do.

    Raises:
        InputError: a name is not known, needs another one, or is nothing that the engine can do.
    """
    from drlpp.errors import InputError
    from drlpp.planners.engines.engine import RUN
    from drlpp.problem import SearchSpace, parallelism_names

    if text is None:
        return frozenset((engine or RUN).parallelism)
    names = parallelism_names(text)
    SearchSpace(parallelism=names)
    if engine is not None and (more := sorted(names - set(engine.parallelism))):
        can = ", ".join(engine.parallelism)
        raise InputError(f"--parallelism {text}: plans for {engine.title} cannot use {more[0]}: use some of {can}")
    return names


def load_problem(
    model: str,
    cluster: str,
    objective: ObjectiveName,
    step: Step,
    serving: Serving | None = None,
    *,
    engine: Engine | None = None,
) -> PlanningProblem:
    """The planning problem of MODEL on CLUSTER.

    Args:
        serving: what is served, where that is the objective.
        engine: that the plan is for; None for `drlpp run`.
    """
    from drlpp.cluster import load_cluster
    from drlpp.cluster.devices import CPU_PRESET
    from drlpp.errors import InputError
    from drlpp.problem import PlanningProblem

    parallelism = parallelism_of(step.parallelism, engine)
    loaded = load_cluster(cluster)
    on_cpus = all(t.preset == CPU_PRESET for t in loaded.device_types)
    sizes = parse_sizes(step.micro_batch_size)
    other_sizes = bool(sizes) or step.global_batch is not None
    graph = load_graph(model, "cpu" if on_cpus else "gpu", batch_axis=other_sizes)
    if objective == "serving":
        return serving_problem(graph, loaded, step, serving or Serving())
    if serving not in (None, Serving()):
        raise InputError(
            f"--sequences and --context-length are for --objective serving, not for {objective}: leave them out"
        )
    problem = PlanningProblem.build(
        graph,
        loaded,
        num_microbatches=step.num_microbatches,
        global_batch=step.global_batch,
        micro_batch_sizes=sizes,
        objective=objective,
        optimizer=step.optimizer,
        precision=step.precision,
        main_parameters=engine is not None and engine.main_parameters,
    )
    if other_sizes and graph.batch_axis == "unknown":
        say(f"costs of {model} are known for {graph.samples_per_microbatch} samples: taken to grow in proportion")
    return problem.with_parallelism(parallelism, one_degree=engine is not None, shares=engine is None)


def serving_problem(graph: OpGraph, cluster: Cluster, step: Step, serving: Serving) -> PlanningProblem:
    """The problem of serving a model. Raises InputError if options of a training step are given."""
    from drlpp.errors import InputError
    from drlpp.graph.serving import captured_load
    from drlpp.problem import PlanningProblem

    if step.parallelism is not None:
        raise InputError("--parallelism is for training: leave it out for --objective serving")
    if step.num_microbatches is not None or step.global_batch is not None or step.micro_batch_size:
        raise InputError("serving has no micro-batches: give --sequences instead of their number or size")
    if not any(op.kv_bytes_per_token for op in graph.ops):
        say(
            f"{graph.name}: no attention operator was seen, so there is no key-value cache in the memory, "
            "and a step has the work of whole captured samples"
        )
    load = captured_load(graph)
    load = dataclasses.replace(
        load,
        sequences=serving.sequences or load.sequences,
        context_length=serving.context_length or load.context_length,
    )
    return PlanningProblem.build(graph, cluster, precision=step.precision, objective="serving", serving=load)
