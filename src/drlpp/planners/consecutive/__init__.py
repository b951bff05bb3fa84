"""Planners that cut one topological order into consecutive stages: dynamic programs and integer programs."""
