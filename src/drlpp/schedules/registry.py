"""All schedules by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from drlpp.cluster import Cluster
from drlpp.cost import StageCosts
from drlpp.errors import ScheduleError
from drlpp.plan import Schedule
from drlpp.schedules.gradients import Devices
from drlpp.schedules.list_scheduler import list_schedule, split_list_schedule
from drlpp.schedules.orders import FlatSchedule, to_schedule
from drlpp.schedules.placed import PlacedStages, place_stages
from drlpp.schedules.waves import eager_one_f_one_b, gpipe, one_f_one_b

Generator = Callable[[PlacedStages], FlatSchedule]

SCHEDULES: Mapping[str, Generator] = {
    "1f1b": one_f_one_b,
    "eager-1f1b": eager_one_f_one_b,
    "gpipe": gpipe,
    "list": list_schedule,
    "split-list": split_list_schedule,
}
"""Name -> generator."""


def schedules_for(placed: PlacedStages) -> tuple[str, ...]:
    """Names of the schedules that apply to these stages and devices, the usual one first."""
    return tuple(SCHEDULES)


def make_schedule(
    name: str,
    costs: StageCosts,
    cluster: Cluster,
    devices: Devices,
    num_microbatches: int,
    recompute: Sequence[bool] = (),
) -> Schedule:
    """The schedule of a name for stages on devices (rank -> actions).

    Raises:
        ScheduleError: unknown name, or a placement that does not fit the stages.
    """
    placed = place_stages(costs, cluster, devices, num_microbatches, recompute)
    return to_schedule(generator(name)(placed), placed.used)


def generator(name: str) -> Generator:
    """The generator of a name. Raises ScheduleError that lists the known names."""
    if name not in SCHEDULES:
        raise ScheduleError(f"schedule {name!r} is not known: use one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]
