"""Costs: times of ops and stages, of transfers and all-reduces, and memory."""

from drlpp.cost.communication import all_reduce_s, transfer_s
from drlpp.cost.op_times import OpTimeTable, op_times, roofline_times
from drlpp.cost.stage_costs import StageCosts, stage_costs

__all__ = ["OpTimeTable", "StageCosts", "all_reduce_s", "op_times", "roofline_times", "stage_costs", "transfer_s"]
