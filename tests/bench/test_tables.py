"""Tables of a benchmark."""

from bench_rows import ROWS
from drlpp.bench.case import Case, Suite
from drlpp.bench.summary import summarize
from drlpp.bench.tables import markdown_section, planner_table


def test_tables_hold_all_of_it():
    suite = Suite("two", "two cases", (Case("a", "m", "c"), Case("b", "m", "c")))
    summary = summarize(ROWS)
    text = markdown_section(suite, ROWS, summary, "drlpp bench two")
    assert "| dp | 2/2 | 1.001 | 2.002 | 4.00 | 1.41 | 2 | 0 | 1.00 (b) | 2.00, 3.00 |" in text
    assert "| a | 10 | 4 | 2 s | dp | 100.0% | 1.000, 3.00 s | 2.000, 1.00 s | 4.000, 1.00 s |" in text
    assert "- data-parallel on b: infeasible: too | large" in text
    assert "2 s per planner and case, 1 seed; machine; `drlpp bench two`" in text
    assert planner_table(suite, summary).row_count == 3
