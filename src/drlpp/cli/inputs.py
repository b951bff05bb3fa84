"""What the user types, made into objects: model, cluster, problem; and the options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drlpp.cli.terminal import err, say
from drlpp.generator_spec import PREFIX

if TYPE_CHECKING:
    from drlpp.graph import OpGraph
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
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.", min=0)]
ObjectiveName = Literal["iteration-time", "steady-state"]
ObjectiveOption = Annotated[
    ObjectiveName,
    typer.Option("--objective", help="Seconds of one optimizer step, or load of the busiest device per micro-batch."),
]
NumMicrobatches = Annotated[
    int | None,
    typer.Option("--num-microbatches", help="Micro-batches per step [default: two per device, at least 8].", min=1),
]
OptimizerName = Literal["sgd", "momentum", "adamw"]
Optimizer = Annotated[OptimizerName, typer.Option("--optimizer", help="Decides the memory of its state.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
PlanFile = Annotated[
    Path, typer.Argument(metavar="PLAN", help="Plan file made by `drlpp plan -o`.", show_default=False)
]


def planner_list(names: str) -> list[str]:
    """Comma-separated names of planners, or ``all``, each once. Raises InputError if there is none."""
    from drlpp.errors import InputError
    from drlpp.solve import planner_names

    found = planner_names() if names == "all" else [n.strip() for n in names.split(",") if n.strip()]
    if not found:
        raise InputError("--planners names no planner: give at least one, see `drlpp planners`")
    return list(dict.fromkeys(found))


def load_graph(model: str, kernels: Literal["gpu", "cpu"] = "gpu") -> OpGraph:
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

    with err().status(f"capturing {model}"):
        graph = capture_graph(model, kernels)
    say(f"captured {model}: {graph.num_ops} ops, {len(graph.edges)} edges")
    return graph


def is_graph_file(model: str) -> bool:
    """MODEL names a file of a graph and not a callable in a Python file or a model of a library."""
    path = Path(model)
    if path.suffix == ".py":
        return False
    return path.is_file() or (path.suffix in (".txt", ".json", ".gz") and ":" not in path.name)


def load_problem(
    model: str, cluster: str, num_microbatches: int | None, objective: ObjectiveName, optimizer: OptimizerName
) -> PlanningProblem:
    """The planning problem of MODEL on CLUSTER, with the simulator loaded, so that budgets begin after that.

    The cluster is read first, since a mistake there shows at once.
    """
    from drlpp.cluster import load_cluster
    from drlpp.cluster.devices import CPU_PRESET
    from drlpp.problem import PlanningProblem

    loaded = load_cluster(cluster)
    on_cpus = all(t.preset == CPU_PRESET for t in loaded.device_types)
    graph = load_graph(model, "cpu" if on_cpus else "gpu")
    problem = PlanningProblem.build(
        graph, loaded, num_microbatches=num_microbatches, objective=objective, optimizer=optimizer
    )
    _load_simulator(problem)
    return problem


def _load_simulator(problem: PlanningProblem) -> None:
    """Loads the compiled simulator; the first time on a machine, this compiles it."""
    import numpy as np

    from drlpp.plan import Assignment
    from drlpp.sim import Evaluator

    with err().status("loading the simulator (compiled on first use: about 20 s)"):
        num_ops = problem.graph.num_ops
        halves = np.minimum(np.arange(num_ops) * 2 // num_ops, 1)
        Evaluator(problem).evaluate(Assignment.compact(halves, {0: (0,), 1: (problem.cluster.num_devices - 1,)}))
