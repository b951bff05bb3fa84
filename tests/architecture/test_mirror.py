"""Tests mirror the source: ``src/drlpp/a/b.py`` has ``tests/a/test_b.py``, or is named below with the test of it.

The reasons are few: what needs real processes is tested where these are (tests/distributed); a verb by what it prints;
planners, readers and capture by what they give for the same problems, traces and models; and parts of one algorithm
through the whole. The test that is named must reach the module through imports.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from architecture_graph import home, import_graph, imported

TESTS = Path(__file__).parents[1]
HELPERS = TESTS / "helpers"
SRC = TESTS.parent / "src" / "drlpp"
REAL_PROCESSES = {
    "distributed/test_executor.py": "runtime: executor programs program_cache copies held_tensors agreement "
    "stage/compute transfers/waiting transfers/causes",
    "distributed/test_launch.py": "runtime: emulation launch/run launch/training launch/user_batches launch/worker "
    "verify/same_draws",
    "distributed/test_elastic.py": "runtime: launch/elastic launch/rank_processes observe/heartbeat",
    "distributed/test_hosts.py": "runtime: launch/hosts launch/fresh_store",
    "distributed/test_signals.py": "runtime: launch/signals",
    "distributed/test_trials.py": "runtime: launch/job launch/plan_measurement observe/stopwatch",
    "distributed/test_adapt.py": "runtime: adapt/adapter adapt/controller adapt/decisions adapt/moving adapt/proposals",
    "distributed/test_clock.py": "runtime: observe/clock_offset",
    "distributed/test_checkpoint.py": "runtime: checkpoint optimizers",
    "distributed/test_pipeline.py": "runtime: pipeline evaluation other_pipelines",
    "distributed/test_sharded_states.py": "runtime: sharded_states",
    "distributed/test_groups.py": "runtime: holdings parts stage/ways",
    "distributed/test_evaluation.py": "capture: variants",
}
BY_WHAT_IT_PRINTS = {
    "cli/test_command_line.py": "cli: capture compare export inputs lists main run simulate whatif terminal stdout "
    "results_console",
    "cli/test_planning_verbs.py": "cli: plan solve",
    "bench/test_summary.py": "bench: tables",
}
SAME_PROBLEMS = {
    "planners/test_registry.py": "planners: base",
    "planners/consecutive/test_dynamic_program.py": "planners: consecutive/pipedream_contracted",
    "planners/local_search/test_annealing.py": "planners: local_search/moves local_search/stage_annealing",
    "planners/local_search/test_diagram_plans.py": "planners: local_search/load_annealing",
    "planners/engines/test_chain_search.py": "planners: engines/rank_groups",
    "graph/readers/test_readers.py": "graph: readers/dnn_partitioning readers/pipedream readers/piper "
    "generate/synthetic",
    "graph/readers/test_traces.py": "graph: readers/chakra readers/kineto readers/recorded readers/recorded_flow "
    "readers/recorded_graph readers/recorded_step",
    "capture/test_check.py": "capture: capturing model_state module_call ",
    "capture/test_tracing.py": "capture: recording ",
    "capture/sources/test_load.py": "capture: sources/model_source",
}
THROUGH_THE_WHOLE = {
    "plan/test_plan.py": "plan: serialize trace validation",
    "planners/bounds/test_lower_bound.py": "cost: problem_times",
    "cost/test_placement.py": "cost: problem_arrays",
    "report/test_stages.py": "cost: schedule_memory",
    "cost/calibration/test_fit.py": "cost: calibration/parameters",
    "cluster/test_cluster.py": "cluster: presets",
    "schedules/test_selection.py": "schedules: replay",
    "sim/test_simulator.py": "sim: simulation steady_loads",
    "export/test_deepspeed.py": "export: setup",
    "test_specs.py": "generator_spec",
    "architecture/test_public_names.py": "_version",
    "agent/training/test_train_on_problem.py": "threads",
    "test_parsing.py": "errors",
}
ELSEWHERE = REAL_PROCESSES | BY_WHAT_IT_PRINTS | SAME_PROBLEMS | THROUGH_THE_WHOLE


def named() -> dict[str, str]:
    """Path of a source file below `src/drlpp` -> the test file that is named for it."""
    out = {}
    for test, text in ELSEWHERE.items():
        room, colon, names = text.partition(": ")
        for name in names.split() if colon else [room]:
            out[f"{room}/{name}.py" if colon else f"{name}.py"] = test
    return out


def without_mirror() -> set[str]:
    """Source files that no test file mirrors."""
    files = {p.relative_to(SRC) for p in SRC.rglob("*.py") if not p.name.startswith("__")}
    return {str(f) for f in files if not (TESTS / f.parent / f"test_{f.name}").exists()}


def test_every_module_has_a_test_file():
    missing = sorted(without_mirror() - named().keys())
    assert not missing, f"no test file mirrors {missing}: write it, or name the test of it in {Path(__file__).name}"


def test_the_list_names_what_there_is():
    assert [module for module in named() if not (SRC / module).exists()] == []


@pytest.mark.parametrize(("module", "test"), sorted(named().items()))
def test_the_test_that_is_named_reaches_the_module(module: str, test: str):
    graph = import_graph()
    names = [*imported(TESTS / test)]
    helpers = {HELPERS / f"{name.partition('.')[0]}.py" for name in names}
    names += [name for helper in helpers if helper.exists() for name in imported(helper)]
    todo = [m for name in names if (m := home(name, graph))]
    reached: set[str] = set()
    while todo:
        if (at := todo.pop()) not in reached:
            reached.add(at)
            todo += graph[at]
    assert "drlpp." + module.removesuffix(".py").replace("/", ".") in reached
