"""Schedules: in which order each device runs the actions of its stages and micro-batches.

Generators work on stages that have been placed (`place_stages`) and return flat arrays; `to_schedule` makes the
schedule of a plan of them.
"""

from drlpp.schedules.gradients import GradientGroup, gradient_groups, resident_and_optimizer, share_of_parameters
from drlpp.schedules.orders import FlatSchedule, from_schedule, to_schedule
from drlpp.schedules.placed import PlacedStages, place_stages
from drlpp.schedules.registry import SCHEDULES, ScheduleKind, generate, make_schedule, schedules_for

__all__ = [
    "SCHEDULES",
    "FlatSchedule",
    "GradientGroup",
    "PlacedStages",
    "ScheduleKind",
    "from_schedule",
    "generate",
    "gradient_groups",
    "make_schedule",
    "place_stages",
    "resident_and_optimizer",
    "schedules_for",
    "share_of_parameters",
    "to_schedule",
]
