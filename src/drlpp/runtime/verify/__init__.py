"""Comparison of a run with single-process training."""
