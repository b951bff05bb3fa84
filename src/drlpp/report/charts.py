"""Line charts of the page: quality over time of each planner, and the learning curve of the agent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from drlpp.report.comparison import Comparison
from drlpp.units import format_time

CurvePoint = Mapping[str, float]
"""One iteration of learning: ``iteration``, ``seconds`` and any number of rewards and other measures by name."""

_MAX_POINTS = 600
_EARLIEST_S = 1e-3
_TALLEST = 2.0
"""Times the best value, above which the chart of planners is cut off: else one bad start would flatten all the rest."""
_DEEPEST = 0.5
"""Times the best value, below which the lower bound is told and not drawn."""
_NAMES = {
    "mean_reward": "mean of the policy's samples",
    "best_reward": "best of the policy's samples",
    "best_value_s": "best so far",
}


def history_chart(comparison: Comparison | None) -> dict[str, Any] | None:
    """Objective value of the best plan over seconds of planning, one line per planner; None without any history.

    The planner with the best plan comes first; the labels tell what each reached in the end.
    """
    if comparison is None:
        return None
    series: list[dict[str, Any]] = []
    latest = max((row.planning_time_s for row in comparison.rows), default=0.0)
    for row in comparison.rows:
        if row.history:
            points = [(max(t, _EARLIEST_S), v) for t, v in row.history]
            points.append((max(latest, points[-1][0]), points[-1][1]))
            label = f"{row.planner} {format_time(points[-1][1])}"
            series.append({"name": row.planner, "label": label, "points": _thinned(points)})
    if not series:
        return None
    series.sort(key=lambda s: s["points"][-1][1])
    best = series[0]["points"][-1][1]
    cut = _TALLEST * best
    bound = comparison.useful_bound_s
    return {
        "series": series,
        "step": True,
        "label": f"{comparison.problem.objective.label} of the best plan over planning time",
        "x": {"label": "planning time", "short": "after", "unit": "s", "log": True},
        "y": {"unit": "s", "cut": cut if any(v > cut for s in series for _, v in s["points"]) else None},
        "bound": bound if bound is not None and bound >= _DEEPEST * best else None,
        "remark": f"lower bound {format_time(bound)}, below the chart" if bound and bound < _DEEPEST * best else "",
    }


def curve_chart(curve: Sequence[CurvePoint]) -> dict[str, Any] | None:
    """What the agent's samples reached over the iterations of learning; None without a curve.

    Rewards are drawn if there are any, else times (names that end in ``_s``).
    """
    keys = list(dict.fromkeys(k for point in curve for k in point if k not in ("iteration", "seconds")))
    rewards = [k for k in keys if k.endswith("reward")]
    times = [k for k in keys if k.endswith("_s")]
    shown = rewards or times
    series = []
    for key in shown:
        points = [
            (p.get("iteration", float(i)), p[key]) for i, p in enumerate(curve) if math.isfinite(p.get(key, math.nan))
        ]
        if points:
            series.append({"name": _NAMES.get(key, key.replace("_", " ")), "points": _thinned(points)})
    if not series:
        return None
    seconds = max((p["seconds"] for p in curve if "seconds" in p), default=None)
    spent = f" in {seconds:.0f} s" if seconds is not None else ""
    higher = "Rewards: higher is better. " if rewards else "Seconds: lower is better. "
    return {
        "series": series,
        "step": False,
        "label": "learning curve",
        "caption": f"{higher}{len(curve)} iterations{spent}.",
        "x": {"label": "iteration", "short": "iteration", "unit": "", "log": False},
        "y": {"unit": "" if rewards else "s"},
        "bound": None,
    }


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` of the points, the last one among them, in six significant digits."""
    step = -(-len(points) // _MAX_POINTS)
    kept = list(points[::step])
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return [(float(f"{x:.6g}"), float(f"{y:.6g}")) for x, y in kept]
