from __future__ import annotations

import dataclasses
import io

from hand_plans import Bound
from rich.console import Console

from drlpp.report.comparison import compare_results
from drlpp.report.tables import comparison_table, plan_tables, stage_table


def printed(*renderables: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for r in renderables:
        console.print(r)
    return console.file.getvalue()


def test_comparison_has_a_row_for_each_planner(problem, results):
    text = printed(comparison_table(compare_results(problem, results, Bound(0.01))))
    assert "two_branches on mixed-a100-v100-t4: 8 devices, 8 micro-batches" in text
    for word in ("drl", "data-parallel", "milp", "failed: no solution <in> time", "1.00x", "policy:"):
        assert word in text


def test_names_are_not_taken_for_markup(problem, results):
    odd = dataclasses.replace(results[2], reason="op [bold]x[/bold] is too large")
    text = printed(comparison_table(compare_results(problem, [odd], Bound(0.0))))
    assert "[bold]x[/bold]" in text


def test_plan_tables(plan):
    text = printed(*plan_tables(plan, Bound(0.01)))
    for word in ("iteration time", "samples/s", "gap", "stem", "v100 #3, #4", "8 micro-batches"):
        assert word in text


def test_a_plan_without_prediction_has_only_its_stages(plan):
    assert len(plan_tables(dataclasses.replace(plan, prediction=None))) == 1


def test_stages_fit_a_narrow_terminal(plan):
    assert max(len(line) for line in printed(stage_table(plan), width=80).splitlines()) <= 80
