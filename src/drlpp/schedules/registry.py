"""All schedules by name, and which of them apply."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from drlpp.cluster import Cluster
from drlpp.cost import StageCosts
from drlpp.errors import ScheduleError
from drlpp.plan import Schedule
from drlpp.schedules.gradients import Devices
from drlpp.schedules.interleaved import interleaved_one_f_one_b, interleaved_zero_bubble, is_interleaved
from drlpp.schedules.list_scheduler import list_schedule, split_list_schedule
from drlpp.schedules.orders import WEIGHT_GRAD, FlatSchedule, to_schedule
from drlpp.schedules.placed import PlacedStages, place_stages
from drlpp.schedules.waves import eager_one_f_one_b, gpipe, one_f_one_b
from drlpp.schedules.zero_bubble import is_v_shaped, zbv, zero_bubble


def _always(placed: PlacedStages) -> bool:
    return True


def _is_interleaved_with_weights(placed: PlacedStages) -> bool:
    return _has_weight_gradients(placed) and is_interleaved(placed)


def _has_weight_gradients(placed: PlacedStages) -> bool:
    """Without time for weight gradients there is nothing to split off a backward pass."""
    return bool(placed.action_s[WEIGHT_GRAD].any())


@dataclasses.dataclass(frozen=True, slots=True)
class ScheduleKind:
    """A way to make schedules.

    Attributes:
        generate: makes the schedule.
        applies: whether it can be made for stages so placed, and makes sense.
        summary: one line for people.
        splits_backward: backward passes are run as I and W.
    """

    generate: Callable[[PlacedStages], FlatSchedule]
    applies: Callable[[PlacedStages], bool]
    summary: str
    splits_backward: bool = False


SCHEDULES: Mapping[str, ScheduleKind] = {
    "1f1b": ScheduleKind(one_f_one_b, _always, "one forward, one backward (PipeDream-Flush)"),
    "eager-1f1b": ScheduleKind(eager_one_f_one_b, _always, "1F1B with more micro-batches in flight"),
    "gpipe": ScheduleKind(gpipe, _always, "all forward passes, then all backward passes"),
    "interleaved-1f1b": ScheduleKind(
        interleaved_one_f_one_b, is_interleaved, "several stages per device, looped (Megatron-LM)"
    ),
    "zero-bubble": ScheduleKind(
        zero_bubble, _has_weight_gradients, "1F1B with split backward passes (ZB-H1)", splits_backward=True
    ),
    "interleaved-zero-bubble": ScheduleKind(
        interleaved_zero_bubble,
        _is_interleaved_with_weights,
        "interleaved 1F1B with split backward passes",
        splits_backward=True,
    ),
    "zbv": ScheduleKind(
        zbv, is_v_shaped, "two stages per device in the shape of a V, split backward passes", splits_backward=True
    ),
    "list": ScheduleKind(list_schedule, _always, "list scheduling: the most urgent action that is ready"),
    "split-list": ScheduleKind(
        split_list_schedule, _has_weight_gradients, "list scheduling with split backward passes", splits_backward=True
    ),
}
"""Name -> how it is made."""


def schedules_for(placed: PlacedStages) -> tuple[str, ...]:
    """Names of the schedules that apply to these stages and devices."""
    return tuple(name for name, kind in SCHEDULES.items() if kind.applies(placed))


def generate(name: str, placed: PlacedStages) -> FlatSchedule:
    """Makes the schedule of a name.

    Raises:
        ScheduleError: the name is not known, or the schedule does not apply.
    """
    kind = SCHEDULES.get(name)
    if kind is None:
        raise ScheduleError(f"schedule {name!r} is not known: use one of {', '.join(SCHEDULES)}")
    if not kind.applies(placed):
        raise ScheduleError(
            f"schedule {name!r} does not apply to this placement: use one of {', '.join(schedules_for(placed))}"
        )
    return kind.generate(placed)


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
        ScheduleError: the name is not known, the schedule does not apply, or the placement does not fit the stages.
    """
    placed = place_stages(costs, cluster, devices, num_microbatches, recompute)
    return to_schedule(generate(name, placed), placed.used)
