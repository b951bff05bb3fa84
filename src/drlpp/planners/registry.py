"""All planners by name. The learned planner is a level above and is added by the command line."""

from __future__ import annotations

from collections.abc import Callable

from drlpp.errors import InputError, did_you_mean
from drlpp.planners.annealing import Annealing
from drlpp.planners.base import Planner
from drlpp.planners.dapple import Dapple
from drlpp.planners.data_parallel import DataParallel
from drlpp.planners.dynamic_program import DynamicProgram
from drlpp.planners.expert import Expert
from drlpp.planners.greedy import Greedy
from drlpp.planners.metis import Metis
from drlpp.planners.milp import Milp
from drlpp.planners.pipedream import PipeDream
from drlpp.planners.pipedream_contracted import PipeDreamContracted
from drlpp.planners.piper import Piper
from drlpp.planners.random_plans import RandomPlans
from drlpp.planners.uniform import Uniform

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
