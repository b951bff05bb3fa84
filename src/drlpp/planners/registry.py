"""All planners by name. The learned planner is a level above and is added by `drlpp.solving`.

A planner's file is loaded when the planner is first asked for, so that knowing the names costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from drlpp.errors import InputError, did_you_mean
from drlpp.planners.parameters import restored

if TYPE_CHECKING:
    from drlpp.planners.base import Planner

_HOMES = {
    "data-parallel": "baselines.data_parallel:DataParallel",
    "expert": "baselines.expert:Expert",
    "uniform": "baselines.uniform:Uniform",
    "random": "baselines.random_plans:RandomPlans",
    "greedy": "baselines.greedy:Greedy",
    "pipedream": "pipedream.planner:PipeDream",
    "pipedream-contracted": "consecutive.pipedream_contracted:PipeDreamContracted",
    "dp": "consecutive.dynamic_program:DynamicProgram",
    "annealing": "local_search.annealing:Annealing",
    "milp": "consecutive.milp:Milp",
    "dapple": "consecutive.dapple:Dapple",
    "piper": "consecutive.piper:Piper",
    "metis": "consecutive.metis:Metis",
}
"""Name -> file below `drlpp.planners`, and class."""
PLANNERS = tuple(_HOMES)
"""Names of all planners, in the order in which they are shown."""


def check_planner(name: str, known: Iterable[str] = PLANNERS) -> None:
    """Raises InputError with the nearest name if `name` is not among the known ones."""
    if name not in known:
        raise InputError(f"planner {name!r} is not known: {did_you_mean(name, known)}use one of {', '.join(known)}")


def get_planner(name: str, parameters: Mapping[str, Any] | None = None) -> Planner:
    """The planner of a name.

    Args:
        parameters: settings as the provenance of a plan keeps them; None for the defaults.

    Raises:
        InputError: the name is not known (the message tells the nearest one), or a setting is not.
    """
    check_planner(name)
    file, _, kind = _HOMES[name].partition(":")
    made = cast("Callable[..., Planner]", getattr(import_module(f"drlpp.planners.{file}"), kind))()
    settings = {key: value for key, value in (parameters or {}).items() if key != "search"}
    if not settings:
        return made
    if not hasattr(made, "params"):
        raise InputError(f"planner {name!r} has no setting {next(iter(settings))!r}: leave it out")
    return type(made)(restored(type(made.params), settings))  # type: ignore[call-arg]
