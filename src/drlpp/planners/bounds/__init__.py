"""Certified lower bounds: no legal plan is faster."""
