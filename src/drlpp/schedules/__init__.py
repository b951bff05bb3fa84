"""Schedules: in which order each device runs the actions of its stages and micro-batches.

Generators work on stages that have been placed (`place_stages`) and return flat arrays; `to_schedule` makes the
schedule of a plan of them.
"""

from drlpp.schedules.orders import FlatSchedule, from_schedule, to_schedule
from drlpp.schedules.registry import SCHEDULES, ScheduleKind, generate, schedules_for

__all__ = [
    "SCHEDULES",
    "FlatSchedule",
    "ScheduleKind",
    "from_schedule",
    "generate",
    "schedules_for",
    "to_schedule",
]
