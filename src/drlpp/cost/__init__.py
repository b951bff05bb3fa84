"""The only prices: times of ops and stages, of transfers and all-reduces, memory; and their compiled forms."""

from drlpp.cost.collectives import all_gather_s, all_reduce_s, all_to_all_s, reduce_scatter_s
from drlpp.cost.device_loads import device_loads
from drlpp.cost.gradients import GradientGroup, gradient_groups, resident_and_optimizer, share_of_parameters
from drlpp.cost.links import transfer_s, wire_s
from drlpp.cost.op_times import OpTimeTable, op_times, roofline_times
from drlpp.cost.placed_stages import PlacedStages, place_stages
from drlpp.cost.stage_costs import StageCosts, costs_of_plan, stage_costs

__all__ = [
    "GradientGroup",
    "OpTimeTable",
    "PlacedStages",
    "StageCosts",
    "all_gather_s",
    "all_reduce_s",
    "all_to_all_s",
    "costs_of_plan",
    "device_loads",
    "gradient_groups",
    "op_times",
    "place_stages",
    "reduce_scatter_s",
    "resident_and_optimizer",
    "roofline_times",
    "share_of_parameters",
    "stage_costs",
    "transfer_s",
    "wire_s",
]
