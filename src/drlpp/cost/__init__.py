"""Costs: times of ops and stages, of transfers and all-reduces, and memory."""

from drlpp.cost.collectives import all_reduce_s
from drlpp.cost.links import transfer_s, wire_s
from drlpp.cost.op_times import OpTimeTable, op_times, roofline_times
from drlpp.cost.stage_costs import StageCosts, stage_costs

__all__ = [
    "OpTimeTable",
    "StageCosts",
    "all_reduce_s",
    "op_times",
    "roofline_times",
    "stage_costs",
    "transfer_s",
    "wire_s",
]
