from __future__ import annotations

import dataclasses

from drlpp.cluster import load_cluster
from drlpp.graph import Work
from drlpp.problem import PlanningProblem
from drlpp.report.comparison import compare_results
from drlpp.report.headline import cluster_text, problems, tiles, words
from drlpp.sim import explain, simulate
from hand_plans import Bound, make_plan


def test_cluster_in_words(problem):
    assert cluster_text(problem.cluster) == "8 devices on 3 hosts: 2 a100, 4 v100, 2 t4"


def test_tiles_of_a_plan_alone(plan, simulation):
    labels = [t.label for t in tiles(plan, simulation.prediction, None, None, None)]
    assert labels == ["Iteration time", "Throughput", "Devices busy", "Fullest memory"]


def test_tiles_with_baseline_bound_and_measurement(problem, plan, simulation, results):
    comparison = compare_results(problem, results, Bound(0.01))
    measured = dataclasses.replace(
        simulation.trace, source="measured", iteration_time_s=1.25 * simulation.trace.iteration_time_s
    )
    shown = {t.label: t for t in tiles(plan, simulation.prediction, comparison, 0.01, measured)}
    ratio = comparison.rows[1].iteration_time_s / comparison.rows[0].iteration_time_s
    assert shown["Over data parallelism"].value == f"{ratio:.2f}×"
    assert "+25.0%" in shown["Measured"].detail
    assert shown["Gap to the lower bound"].detail == "no plan is below 10 ms"


def test_tiles_when_data_parallelism_has_no_plan(problem, plan, simulation, results):
    nothing = dataclasses.replace(results[1], status="infeasible", plan=None, reason="no memory")
    comparison = compare_results(problem, [results[0], nothing], Bound(0.01))
    shown = {t.label: t for t in tiles(plan, simulation.prediction, comparison, None, None)}
    assert shown["Over data parallelism"].detail == "data parallelism: infeasible"
    assert (
        "Data parallelism has no plan to compare with (infeasible)."
        in words(simulation, explain(simulation), comparison)[0]
    )


def test_a_plan_far_above_the_bound_is_said_to_be_so_many_times_as_long(problem, plan, simulation, results):
    value = simulation.prediction.iteration_time_s
    first, _ = words(simulation, explain(simulation), compare_results(problem, results, Bound(value / 2.5)))
    assert "so it takes at most 2.5 times as long as the best possible." in first


def test_words_name_stages_speed_and_bottleneck(problem, plan, simulation, results):
    first, second = words(simulation, explain(simulation), compare_results(problem, results, Bound(0.01)))
    assert "4 stages on 5 of 8 devices (2 a100, 3 v100), with branches that run side by side" in first
    assert "data parallelism" in first
    assert "No plan can take less than 10 ms" in first
    assert second.startswith("The bottleneck is device #")


def test_words_of_one_stage_on_all_devices(problem):
    parallel = make_plan(problem, [0] * 8, [tuple(range(8))], "data-parallel")
    result = simulate(parallel)
    first, _ = words(result, explain(result), None)
    assert "runs in one stage on all 8 devices" in first
    assert "side by side" not in first


def test_problems_say_which_device_lacks_how_much(plan, simulation):
    assert problems(plan, simulation.prediction) == []
    peaks = [0.0] * 8
    peaks[2] = 20e9
    (line,) = problems(plan, dataclasses.replace(simulation.prediction, peak_memory_bytes=tuple(peaks)))
    assert line == "This plan does not fit: device #2 (v100) needs 20 GB of 16 GB, 4 GB too much."


def test_utilization_is_a_tile_where_peaks_are_known(problem):
    ops = tuple(dataclasses.replace(op, forward=Work(flop=1e12)) for op in problem.graph.ops)
    graph = dataclasses.replace(problem.graph, ops=ops)
    peaks = load_cluster("mixed-desktops")
    plan = make_plan(PlanningProblem.build(graph, peaks, num_microbatches=4), [0] * 8, [(0,)], "t")
    shown = {t.label: t.value for t in tiles(plan, plan.prediction, None, None, None)}
    assert shown["Model FLOP utilization"] == f"{plan.model_flops_utilization:.1%}"
