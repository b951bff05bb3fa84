from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from drlpp.plan import Objective, Trace
from drlpp.problem import PlanningProblem
from drlpp.report.comparison import compare_results
from drlpp.report.tables import comparison_table, plan_tables, run_tables, simulation_tables, stage_table
from drlpp.runtime import Difference, RunReport, Verification
from drlpp.sim import simulate
from hand_plans import Bound, make_plan


def printed(*renderables: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for r in renderables:
        console.print(r)
    return console.file.getvalue()


def test_comparison_has_a_row_for_each_planner(problem, results):
    text = printed(comparison_table(compare_results(problem, results, Bound(0.01))))
    assert "two_branches on mixed-a100-v100-t4: 8 devices, 8 micro-batches" in text
    for word in ("drl", "data-parallel", "milp", "milp failed: no solution <in> time", "1.00x", "drl: policy:"):
        assert word in text


def test_a_comparison_fits_a_narrow_terminal(problem, results):
    long = [dataclasses.replace(results[0], planner="pipedream-contracted"), *results[1:]]
    text = printed(comparison_table(compare_results(problem, long, Bound(0.01))), width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "pipedream-contracted" in text
    assert "…" not in text


def test_names_are_not_taken_for_markup(problem, results):
    odd = dataclasses.replace(results[2], reason="op [bold]x[/bold] is too large")
    text = printed(comparison_table(compare_results(problem, [odd], Bound(0.0))))
    assert "[bold]x[/bold]" in text


def test_plan_tables(plan):
    text = printed(*plan_tables(plan, Bound(0.01)))
    for word in ("iteration time", "samples/s", "gap", "stem", "v100 #3-4", "8 micro-batches"):
        assert word in text


def test_the_gap_is_that_of_the_objective(plan):
    bound = Bound(plan.prediction.bottleneck_s / 1.5)
    assert "gap 50.0%" in printed(*plan_tables(plan, bound, Objective.STEADY_STATE))


def test_a_plan_without_prediction_has_only_its_stages(plan):
    assert len(plan_tables(dataclasses.replace(plan, prediction=None))) == 1


def test_stages_fit_a_narrow_terminal(plan):
    assert max(len(line) for line in printed(stage_table(plan), width=80).splitlines()) <= 80


def test_devices_of_a_simulation(simulation):
    text = printed(*simulation_tables(simulation))
    for word in ("#0 a100", "not used", "computes", "iteration time"):
        assert word in text
    assert "does not fit" not in text


def test_a_simulation_that_does_not_fit_says_so(problem):
    huge = dataclasses.replace(problem.graph, param_bytes=dict.fromkeys(problem.graph.param_bytes, 3e9))
    plan = make_plan(PlanningProblem(huge, problem.cluster, problem.training), [0] * 8, [(7,)], "hand")
    assert "This plan does not fit: device #7 (t4) needs 63 GB of 16 GB" in printed(*simulation_tables(simulate(plan)))


def run_report(**values):
    trace = Trace(source="measured", num_devices=3, events=(), iteration_time_s=0.3)
    times = {"iteration_times_s": (0.2, 0.3, 0.4), "step_times_s": (0.5, 0.2, 0.3, 0.4), "predicted_s": 0.2}
    return RunReport(**times | {"losses": (3.0, 2.5, 2.25), "trace": trace} | values)


@pytest.mark.parametrize(("passed", "words"), [(True, "equal to single-process"), (False, "NOT equal to")])
def test_a_run_shows_measured_beside_predicted(plan, passed, words):
    worst = Difference(quantity="gradient", name="fc.weight", error=1e-7, rank=0, compared=9)
    verdict = Verification(passed=passed, tolerance=1e-5, differences=(worst,))
    text = printed(*run_tables(plan, run_report(verification=verdict, peak_memory_bytes=(1e9, 0.0, 2e9))))
    for word in ("3 measured steps", "300 ms", "1.50x", "107 samples/s", "3, 2.5, 2.25", "#2 2 GB", "fc.weight", words):
        assert word in text
    assert "#1" not in text


def test_an_emulated_run_says_so(plan):
    text = printed(*run_tables(plan, run_report(losses=(), predicted_s=None, time_scale=10.0)))
    assert "emulated" in text
    assert "losses" not in text


def test_long_runs_show_the_first_and_last_losses(plan):
    text = printed(*run_tables(plan, run_report(losses=tuple(float(i) for i in range(20)))))
    assert "0, 1, 2, ..., 18, 19" in text
