"""Planners that improve a plan by moves."""
