"""Tables of a benchmark."""

from drlpp.bench.case import Case, Suite
from drlpp.bench.summary import summarize
from drlpp.bench.tables import markdown_section, planner_table


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


def test_tables_hold_all_of_it():
    suite = Suite("two", "two cases", (Case("a", "m", "c"), Case("b", "m", "c")))
    summary = summarize(ROWS)
    text = markdown_section(suite, ROWS, summary, "drlpp bench two")
    assert "| dp | 2/2 | 1.001 | 2.002 | 4.00 | 1.41 | 2 | 0 | 1.00 (b) | 2.00, 3.00 |" in text
    assert "| a | 10 | 4 | 2 s | dp | 100.0% | 1.000, 3.00 s | 2.000, 1.00 s | 4.000, 1.00 s |" in text
    assert "- data-parallel on b: infeasible: too | large" in text
    assert "2 s per planner and case, 1 seed; machine; `drlpp bench two`" in text
    assert planner_table(suite, summary).row_count == 3
