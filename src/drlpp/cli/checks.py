"""What the user typed, checked before anything heavy is loaded, so that a mistake shows at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from drlpp.errors import InputError
from drlpp.files import check_writable, is_file
from drlpp.generator_spec import PREFIX
from drlpp.model_spec import parse_model_spec

if TYPE_CHECKING:
    from drlpp.planners.engines.engine import Engine


def check_problem(model: str, cluster: str, planners: Iterable[str] = ()) -> None:
    """Checks the names of a problem and of planners.

    Raises:
        ClusterError: the cluster is neither a preset nor a usable file.
        CaptureError: `model` is of no known form, or names a Python file that is not there.
        InputError: a planner is not known.
    """
    from drlpp.cluster import load_cluster

    load_cluster(cluster)
    check_model(model)
    check_planners(planners)


def check_planners(names: Iterable[str]) -> None:
    """Checks names of planners. Raises InputError with the nearest known name."""
    from drlpp.planners.registry import check_planner
    from drlpp.solving import planner_names

    for name in names:
        check_planner(name, planner_names())


def check_model(model: str) -> None:
    """Checks that the name of a model is of a known form. Graph files are read soon anyway; libraries are not asked.

    Raises:
        CaptureError: it is not, or names a Python file that is not there.
    """
    if not is_graph_file(model) and not model.startswith(PREFIX):
        parse_model_spec(model)


def check_engine(name: str | None) -> Engine | None:
    """The rules of an engine, None for none. Raises InputError with the nearest known name."""
    from drlpp.planners.engines.engine import get_engine

    return None if name is None else get_engine(name)


def check_weights(weights: Path | None) -> None:
    """Checks that a checkpoint is there, or none is asked for. Raises InputError."""
    from drlpp.planners.parameters import UNTRAINED

    if weights is not None and weights != UNTRAINED and not is_file(weights):
        raise InputError(f"cannot read checkpoint {weights}: there is no such file: give one that train-policy wrote")


def check_output(path: Path | None) -> None:
    """Checks that a file that is asked for could be written. Raises InputError."""
    if path is not None:
        check_writable(path)


def is_graph_file(model: str) -> bool:
    """MODEL names a file of a graph and not a callable in a Python file or a model of a library."""
    path = Path(model)
    if path.suffix == ".py":
        return False
    return is_file(path) or (path.suffix in (".txt", ".json", ".gz") and ":" not in path.name)
