"""Plans: partition, placement, schedule; what is legal; plan files; traces."""

from drlpp.plan.action import Action, Schedule, parse_action
from drlpp.plan.assignment import Assignment
from drlpp.plan.objective import Objective
from drlpp.plan.plan import Plan, Prediction, Provenance
from drlpp.plan.serialize import load_plan, plan_from_dict, plan_to_dict, save_plan
from drlpp.plan.settings import StageSettings
from drlpp.plan.stage import Sharding, Stage, stages_of
from drlpp.plan.trace import Trace, TraceEvent
from drlpp.plan.validation import dependencies, validate

__all__ = [
    "Action",
    "Assignment",
    "Objective",
    "Plan",
    "Prediction",
    "Provenance",
    "Schedule",
    "Sharding",
    "Stage",
    "StageSettings",
    "Trace",
    "TraceEvent",
    "dependencies",
    "load_plan",
    "parse_action",
    "plan_from_dict",
    "plan_to_dict",
    "save_plan",
    "stages_of",
    "validate",
]
