"""Operator graphs: ops, tensors, costs; order, coarsening, JSON, and readers of third-party profiles."""

from drlpp.graph.op_graph import REFERENCE, Edge, Op, OpGraph, OpTimes, Work
from drlpp.graph.serialize import graph_from_dict, graph_hash, graph_to_dict, save_graph
from drlpp.graph.splits import PARTIAL_SUM, MemberTimes, Part, Split
from drlpp.graph.topology import topological_order

__all__ = [
    "PARTIAL_SUM",
    "REFERENCE",
    "Edge",
    "MemberTimes",
    "Op",
    "OpGraph",
    "OpTimes",
    "Part",
    "Split",
    "Work",
    "graph_from_dict",
    "graph_hash",
    "graph_to_dict",
    "save_graph",
    "topological_order",
]
