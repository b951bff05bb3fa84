"""Runs that take another plan while they train give what an undisturbed run gives, and are faster."""

from __future__ import annotations

import dataclasses
import pickle
import signal
import sys
from pathlib import Path

import pytest

from drlpp.adaptation import adaptation
from drlpp.errors import InputError, PlanError, StoppedError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Plan, load_plan
from drlpp.runtime import Elastic, RunReport, run
from drlpp.runtime.launch.job import Adapt, RunOptions
from paced_data import images, paced_data, tokens
from plan_cases import make_plan, source_plan, staged
from processes import signal_rank

HELPERS = Path(__file__).parents[1] / "helpers"
PLACES: list[list[tuple[int, ...]]] = [[(1,), (2,), (0,)], [(0,), (0, 2), (1,)], [(2,), (2,), (2,)], [(0,), (1,), (2,)]]

ANSWERS = {8 * n: f"answer-{n}" for n in range(1, 5)}
"""After so many steps a run waits for the n-th answer: the ranks take three steps until they ask again."""


def proposing(folder: Path, plans: list[Plan]) -> Adapt:
    """Adaptation with a process that proposes these plans in turn; each is worth a switch, however short a step is."""
    path = folder / "plans.pickle"
    path.write_bytes(pickle.dumps(plans))
    command = (sys.executable, str(HELPERS / "other_plans.py"), str(path))
    return Adapt(command=command, every=1, after_steps=2, worth=0.0)


def places(folder: Path, optimizer: str) -> tuple[Plan, list[Plan]]:
    """A plan of a model with batch norms, and others of the same stages in other places."""
    marks = {"conv2d_1": 1, "add": 2}
    first = source_plan("branches", marks, [(0,), (1,), (2,)], folder, num_devices=3, optimizer=optimizer)
    stages = staged(first.graph, marks)
    rest = [
        make_plan(first.graph, stages, places, num_microbatches=4, num_devices=3, optimizer=optimizer)
        for places in PLACES
    ]
    return first, rest


@pytest.mark.slow
def test_four_switches_change_nothing(tmp_path: Path) -> None:
    """Parameters, states and statistics of batch norms move: replicas come and go, ranks fall idle and come back."""
    plan, others = places(tmp_path, "momentum")
    plan = dataclasses.replace(plan, training=dataclasses.replace(plan.training, zero1=True))
    lines: list[str] = []
    data = paced_data(tmp_path, images(12), ANSWERS)
    report = run(plan, steps=40, verify=True, data=data, adapt=proposing(tmp_path, others), say=lines.append)
    assert report is not None
    moves = [d.kind for d in report.decisions if d.kind.startswith("switch")]
    assert moves[:8] == ["switch", "switched"] * 4, lines
    assert report.verification is not None
    assert report.verification.passed, report.verification.describe()
    assert lines[0].startswith("adapt: every rank keeps whole optimizer states")
    assert sum(line.startswith("adapt: step ") for line in lines) == len(report.decisions)
    assert report.to_dict()["decisions"][0]["devices"] == (0, 1, 2)


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_switch_loses_nothing(tmp_path: Path) -> None:
    plan, others = places(tmp_path, "adamw")
    quiet = run(plan, steps=40, seed=1, data=paced_data(tmp_path, images(12)))

    def kill(line: str) -> None:
        if "switching gains" in line and not killed:
            killed.append(line)
            signal_rank(1, signal.SIGKILL)
            (tmp_path / "killed").touch()

    data = paced_data(tmp_path, images(12), {8: "answer-1", 20: "killed"})
    killed: list[str] = []
    elastic = Elastic(replan=None, max_restarts=2)
    adapt = proposing(tmp_path, others)
    report = run(plan, steps=40, seed=1, data=data, checkpoint_every=5, elastic=elastic, adapt=adapt, say=kill)
    assert report is not None
    assert quiet is not None
    assert len(report.restarts) == 1
    assert report.losses == pytest.approx(quiet.losses, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_the_middle_of_a_switch_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """The switch is done, there is a checkpoint, and the run that follows goes on with the plan that took over."""
    plan, others = places(tmp_path, "adamw")
    store = tmp_path / "store"
    quiet = run(plan, steps=40, seed=1, data=paced_data(tmp_path, images(12)))
    assert quiet is not None
    data = paced_data(tmp_path, images(12), {8: "answer-1", 16: "asked"})
    asked: list[str] = []
    found: list[list[str]] = []

    def disturb(line: str) -> None:
        if "switching gains" in line and not asked:
            asked.append(line)
            signal_rank(1, number)
            (tmp_path / "asked").touch()
        if len(asked) == 1 and line.startswith("step 20 of"):
            found.append(sorted(path.name for path in store.iterdir()))

    def training() -> RunReport | None:
        adapt = proposing(tmp_path, others)
        return run(plan, steps=40, seed=1, data=data, checkpoint=store, checkpoint_every=1000, adapt=adapt, say=disturb)

    if number == signal.SIGUSR1:
        report = training()
        assert any(name.startswith("step-") for name in found[0])
    else:
        with pytest.raises(StoppedError, match="after step"):
            training()
        assert load_plan(store / "plan.json").stages == others[0].stages
        asked.append("once is enough")
        report = training()
    assert report is not None
    assert report.losses == pytest.approx(quiet.losses[report.first_step :], rel=1e-5)


def test_a_bad_plan_is_left() -> None:
    """Emulated: one of two equal devices has five sixths of the work."""
    graph = chain_graph(12, forward_s=1e-3, tensor_bytes=1e4, param_bytes=1e4)
    plan = make_plan(graph, [0] * 10 + [1] * 2, [(0,), (1,)], num_microbatches=4, num_devices=2)
    report = run(
        plan,
        steps=30,
        time_scale=10.0,
        emulate=True,
        adapt=adaptation(after_steps=3, planning_s=0.5),
    )
    assert report is not None
    assert report.decisions[0].kind == "switch"
    assert min(report.step_times_s[-5:]) < 0.75 * report.step_times_s[0]
    assert report.decisions[0].predicted_s == pytest.approx(report.step_times_s[0], rel=0.2)


def test_what_cannot_adapt(tmp_path: Path) -> None:
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path)
    divided = make_plan(plan.graph, [0] * plan.graph.num_ops, [[(0, 1)]], num_microbatches=4, num_devices=2)
    with pytest.raises(PlanError, match="stage 0 divides its ops over 2 devices, which --adapt cannot do"):
        run(divided, steps=2, adapt=adaptation())
    with pytest.raises(InputError, match="track_memory follows the tensors of one plan, and adapt changes it"):
        RunOptions(track_memory=True, adapt=adaptation())


def test_a_planning_process_that_fails_is_told(tmp_path: Path) -> None:
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path, num_devices=2)
    report = run(
        plan, steps=20, adapt=Adapt(command=(sys.executable, "-c", "raise SystemExit('no planner')"), after_steps=2)
    )
    assert report is not None
    assert [d.kind for d in report.decisions] == ["failed"]
    assert "the planning process ended with status 1: no planner" in report.decisions[0].text


@pytest.mark.slow
def test_tied_weights_move_between_unequal_replicas(tmp_path: Path) -> None:
    """AdamW; stages that compute again, and replicas with shares, among the plans that follow each other."""
    plan = source_plan("tied", {}, [(0,)], tmp_path, num_devices=3, optimizer="adamw")
    labels = staged(plan.graph, {plan.graph.ops[-1].name: 1})
    others = [
        make_plan(
            plan.graph,
            labels,
            devices,
            num_microbatches=4,
            num_devices=3,
            optimizer="adamw",
            shares=shares,
            recompute=again,
            split=0.3,
        )
        for devices, shares, again in (
            ([(1,), (2, 0)], [(), (3, 1)], [0]),
            ([(0, 1), (2,)], [(1, 2), ()], [1]),
            ([(2,), (2,)], [(), ()], []),
            ([(0, 1, 2), (1,)], [(2, 1, 1), ()], [0, 1]),
        )
    ]
    adapt = proposing(tmp_path, others)
    report = run(plan, steps=40, verify=True, data=paced_data(tmp_path, tokens(12), ANSWERS), adapt=adapt)
    assert report is not None
    assert [d.kind for d in report.decisions if d.kind.startswith("switch")][:8] == ["switch", "switched"] * 4
    assert report.verification is not None
    assert report.verification.passed, report.verification.describe()
