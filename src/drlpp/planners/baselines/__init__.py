"""Planners without search: data parallelism, equal splits, the expert's split, random plans, greedy growth."""
