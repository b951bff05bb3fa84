"""How the reports print counts and the parts of a planner's result."""

from __future__ import annotations

from drlpp.units import format_time


def format_count(value: float) -> str:
    """``2810.4`` -> ``'2,810'``; three digits below 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_share(value: float) -> str:
    """``0.123`` -> ``'12%'``; what is there but below a percent says so."""
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"


def describe_part(name: str, amount: float) -> str:
    """``policy_s, 0.19`` -> ``'policy: 190 ms'``; names without a unit are counts."""
    if name.endswith("_s"):
        return f"{name.removesuffix('_s').replace('_', ' ')}: {format_time(amount)}"
    return f"{name.replace('_', ' ')}: {format_count(amount)}"
