"""A benchmark case: a planning problem by name, as `drlpp compare` takes it, so that it can repeat any row."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from drlpp.cluster import load_cluster
from drlpp.errors import InputError
from drlpp.files import is_file
from drlpp.generator_spec import PREFIX
from drlpp.graph import OpGraph
from drlpp.graph.generate.by_name import generated_graph
from drlpp.graph.readers import read_graph
from drlpp.plan import Objective
from drlpp.problem import PlanningProblem, SearchSpace, parallelism_names
from drlpp.training import Precision


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One planning problem of a suite.

    Attributes:
        name: short, unique in its suite.
        model: ``timm:``, ``transformers:``, ``generated:``, ``FILE.py:callable`` or a graph file.
        cluster: a preset, ``generated:``, or a YAML file.
        num_microbatches: None for the default of the cluster.
        objective: of the search.
        optimizer: decides the memory of its state.
        precision: of products; None for that of the model.
        global_batch: samples per step, in micro-batches of a size that planners choose; None for those of the model.
        parallelism: what plans may use, as ``--parallelism`` takes it.
    """

    name: str
    model: str
    cluster: str
    num_microbatches: int | None = None
    objective: Objective = Objective.ITERATION_TIME
    optimizer: str = "momentum"
    precision: Precision | None = None
    global_batch: int | None = None
    parallelism: str = "pp,dp"

    def problem(self) -> PlanningProblem:
        """The problem. Raises InputError if the model or the cluster cannot be had, or options contradict."""
        cluster = load_cluster(self.cluster)
        problem = PlanningProblem.build(
            load_model_graph(self.model),
            cluster,
            num_microbatches=self.num_microbatches,
            global_batch=self.global_batch,
            objective=self.objective,
            optimizer=self.optimizer,
            precision=self.precision,
        )
        return problem.with_parallelism(parallelism_names(self.parallelism))

    def to_dict(self) -> dict[str, Any]:
        """The JSON-ready form, without what is newer than the first results files and left as it was then."""
        newer = {"precision": None, "global_batch": None, "parallelism": "pp,dp"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in newer or v != newer[k]}


@dataclasses.dataclass(frozen=True, slots=True)
class Suite:
    """Named cases.

    Raises:
        InputError: there are no cases, or two have the same name.
    """

    name: str
    summary: str
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        names = [c.name for c in self.cases]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice or not names:
            what = f"names {twice[0]!r} twice" if twice else "has no cases"
            raise InputError(f"suite {self.name!r} {what}: give at least one case, each with a name of its own")

    def at_precision(self, precision: Precision | None) -> Suite:
        """The suite with all cases at a precision; None leaves each its own."""
        if precision is None:
            return self
        return dataclasses.replace(self, cases=tuple(dataclasses.replace(c, precision=precision) for c in self.cases))

    def with_parallelism(self, names: str | None) -> Suite:
        """The suite where plans of all cases may use these; None leaves each its own. Raises as `SearchSpace` does."""
        if names is None:
            return self
        SearchSpace(parallelism=parallelism_names(names))
        return dataclasses.replace(self, cases=tuple(dataclasses.replace(c, parallelism=names) for c in self.cases))


def load_model_graph(model: str) -> OpGraph:
    """The graph of a model: generated, read from a file, or captured (once per machine)."""
    if model.startswith(PREFIX):
        return generated_graph(model)
    path = Path(model)
    from drlpp.capture.graph_cache import kept_graph  # loads torch

    return read_graph(path) if is_file(path) else kept_graph(model)
