"""Rows of a small benchmark: three planners on two cases."""


def row(case, planner, value, *, seed=0, bound=1.0, seconds=1.0, status="ok", reason=""):
    return {
        "case": {"name": case},
        "planner": planner,
        "seed": seed,
        "settings": {"budget_s": 2.0, "clock": "wall"},
        "value_s": value,
        "lower_bound_s": bound,
        "planning_time_s": seconds,
        "status": status if value is not None or status != "ok" else "infeasible",
        "reason": reason,
        "num_ops": 10,
        "num_devices": 4,
        "commit": "abc",
        "machine": "machine",
    }


ROWS = [
    row("a", "data-parallel", 8.0),
    row("a", "pipedream", 4.0),
    row("a", "dp", 2.0, seconds=3.0),
    row("b", "data-parallel", None, bound=2.0, reason="too | large"),
    row("b", "pipedream", 4.0, bound=2.0),
    row("b", "dp", 4.01, bound=2.0),
]
