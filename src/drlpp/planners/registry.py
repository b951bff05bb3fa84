"""All planners by name. The learned planner is a level above and is added by the command line."""

from __future__ import annotations

from collections.abc import Callable

from drlpp.errors import InputError, did_you_mean
from drlpp.planners.base import Planner
from drlpp.planners.baselines.data_parallel import DataParallel
from drlpp.planners.baselines.expert import Expert
from drlpp.planners.baselines.greedy import Greedy
from drlpp.planners.baselines.random_plans import RandomPlans
from drlpp.planners.baselines.uniform import Uniform
from drlpp.planners.consecutive.dapple import Dapple
from drlpp.planners.consecutive.dynamic_program import DynamicProgram
from drlpp.planners.consecutive.metis import Metis
from drlpp.planners.consecutive.milp import Milp
from drlpp.planners.consecutive.pipedream_contracted import PipeDreamContracted
from drlpp.planners.consecutive.piper import Piper
from drlpp.planners.local_search.annealing import Annealing
from drlpp.planners.pipedream.planner import PipeDream

PLANNERS: dict[str, Callable[[], Planner]] = {
    DataParallel.name: DataParallel,
    Expert.name: Expert,
    Uniform.name: Uniform,
    RandomPlans.name: RandomPlans,
    Greedy.name: Greedy,
    PipeDream.name: PipeDream,
    PipeDreamContracted.name: PipeDreamContracted,
    DynamicProgram.name: DynamicProgram,
    Annealing.name: Annealing,
    Milp.name: Milp,
    Dapple.name: Dapple,
    Piper.name: Piper,
    Metis.name: Metis,
}
"""Name -> maker of the planner."""


def get_planner(name: str, elsewhere: tuple[str, ...] = ()) -> Planner:
    """The planner of a name. Raises InputError with the nearest known name, of those `elsewhere` too."""
    if name not in PLANNERS:
        known = [*elsewhere, *PLANNERS]
        raise InputError(f"planner {name!r} is not known: {did_you_mean(name, known)}use one of {', '.join(known)}")
    return PLANNERS[name]()
