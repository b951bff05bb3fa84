"""Tests mirror the source: ``src/drlpp/a/b.py`` has ``tests/a/test_b.py``, or is named below with the test of it.

The reasons are few: what needs real processes is tested where these are (tests/distributed); a verb by what it prints;
readers of traces and capture by what they give for the same traces and models; and parts of one algorithm through the
whole. The test that is named must reach the module through imports, and no name stays here once there is a mirror.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from architecture_graph import home, import_graph, imported

TESTS = Path(__file__).parents[1]
HELPERS = TESTS / "helpers"
SRC = TESTS.parent / "src" / "drlpp"
REAL_PROCESSES = {
    "distributed/test_executor.py": "runtime: executor programs program_cache copies held_tensors",
    "distributed/test_launch.py": "runtime: emulation launch/run launch/training launch/worker verify/same_draws",
    "distributed/test_elastic.py": "runtime: launch/elastic launch/rank_processes",
    "distributed/test_trials.py": "runtime: launch/plan_measurement",
    "distributed/test_adapt.py": "runtime: adapt/adapter adapt/controller adapt/decisions adapt/moving adapt/proposals",
    "distributed/test_clock.py": "runtime: observe/clock_offset",
    "distributed/test_checkpoint.py": "runtime: checkpoint",
    "distributed/test_pipeline.py": "runtime: pipeline evaluation",
    "distributed/test_sharded_states.py": "runtime: sharded_states",
    "distributed/test_groups.py": "runtime: parts stage/ways",
    "distributed/test_evaluation.py": "capture: variants",
}
BY_WHAT_IT_PRINTS = {
    "cli/test_simulate.py": "cli: capture export stdout results_console",
    "cli/test_plan.py": "cli: solve",
}
SAME_PROBLEMS = {
    "graph/readers/test_traces.py": "graph: readers/chakra readers/kineto readers/recorded readers/recorded_flow "
    "readers/recorded_graph readers/recorded_step",
    "capture/test_check.py": "capture: capturing",
    "capture/test_tracing.py": "capture: recording",
}
THROUGH_THE_WHOLE = {
    "report/test_stages.py": "cost: schedule_memory",
    "sim/test_simulator.py": "sim: simulation",
    "architecture/test_public_names.py": "_version",
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


def test_the_list_names_what_has_no_mirror():
    assert sorted(named().keys() - without_mirror()) == []


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
