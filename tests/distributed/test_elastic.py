"""Runs go on after ranks die or hang, and give what an undisturbed run gives."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from drlpp.capture import capture, load_model
from drlpp.cluster import Cluster
from drlpp.errors import ExecutionError, InputError
from drlpp.plan import Plan
from drlpp.runtime import Elastic, reference_run, run
from drlpp.runtime.launch.elastic import plan_for_the_rest
from drlpp.runtime.launch.rank_processes import Failure, last_words
from drlpp.runtime.launch.user_batches import user_batches
from drlpp.runtime.optimizers import optimizer_factory
from drlpp.solving import replan
from drlpp.training import TrainingSetup
from paced_data import images, paced_data, vectors
from plan_cases import make_plan, random_plan, source_plan, staged
from processes import ranks, signal_a_rank

pytestmark = pytest.mark.slow

STEPS = 24
THREE: list[tuple[int, ...]] = [(0,), (1,), (2,)]


def three_stages(folder: Path, **more: Any) -> Plan:
    return source_plan("branches", {"conv2d_1": 1, "add": 2}, THREE, folder, num_devices=3, **more)


def fewer(plan: Plan, cluster: Cluster) -> Plan:
    """A plan by hand, for the devices that are left."""
    labels = [min(s, cluster.num_devices - 1) for s in plan.stage_of_op]
    devices = [(d,) for d in range(max(labels) + 1)]
    made = make_plan(plan.graph, labels, devices, num_microbatches=plan.num_microbatches)
    return dataclasses.replace(made, cluster=cluster, training=plan.training)


class Disturbance:
    """Sends signals to random ranks shortly after given steps; collects the lines that are said.

    A run with its `data` does not end before.

    Args:
        folder: of the data.
        batch: Python text of one.
        steps: step -> signal.
        ahead: steps that a run may be ahead of a signal.
    """

    def __init__(self, folder: Path, batch: str, steps: dict[int, int], *, seed: int = 0, ahead: int = 5) -> None:
        self.data = paced_data(folder, batch, {n + ahead: f"signal-{n}" for n in steps})
        self.lines: list[str] = []
        self._folder = folder
        self.detected_s: list[float] = []
        self._steps = dict(steps)
        self._random = random.Random(seed)
        self._sent = 0.0

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self._sent and line.startswith("rank "):
            self.detected_s.append(time.monotonic() - self._sent)
            self._sent = 0.0
        match = re.match(r"step (\d+) of", line)
        if match and (number := self._steps.pop(int(match.group(1)), None)):
            time.sleep(self._random.random() * 0.05)
            if signal_a_rank(self._random, number):
                self._sent = time.monotonic()
            (self._folder / f"signal-{match.group(1)}").touch()


def undisturbed(plan: Plan, data: str) -> tuple[float, ...]:
    """Losses of one process that nothing happens to."""
    captured, count = capture(load_model(plan.graph.source), device="cpu", seed=1), plan.num_microbatches
    batches = []
    for batch in itertools.islice(user_batches(data, 1, 0), STEPS):
        assert isinstance(batch, tuple)
        parts = zip(*(x.chunk(count) for x in batch), strict=True)
        batches.append([(dict(zip(captured.inputs, part, strict=True)), 1 / count) for part in parts])
    state = reference_run(
        captured,
        seed=1,
        num_microbatches=count,
        steps=STEPS,
        make_optimizer=optimizer_factory(plan.training.optimizer, 1e-3),
        batches=batches,
    )
    return state.losses


def test_killed_and_stopped_ranks(tmp_path: Path) -> None:
    plan = three_stages(tmp_path)
    disturbance = Disturbance(tmp_path, images(12), {7: signal.SIGKILL, 15: signal.SIGSTOP}, seed=3)
    elastic, data = Elastic(replan=fewer), disturbance.data
    report = run(plan, steps=STEPS, seed=1, elastic=elastic, checkpoint_every=4, data=data, say=disturbance)
    assert report is not None
    assert [r.num_devices for r in report.restarts] == [2, 1]
    assert all(s < 10 for s in disturbance.detected_s), disturbance.detected_s
    killed, stopped = (r.reason for r in report.restarts)
    assert re.match(r"rank \d \(device \d\) was killed by signal 9; the other ranks were stopped: rank ", killed)
    assert re.match(
        r"rank \d \(device \d\) hangs: silent for \d+ s at (action \d[FBIW]\d of|the end of) step ", stopped
    )
    assert report.losses == pytest.approx(undisturbed(plan, data), rel=1e-4)
    assert ranks() == {}


def test_a_rank_of_a_group_dies(tmp_path: Path) -> None:
    groups: list[Any] = [[(0, 1)], [(2, 3)]]
    plan = source_plan("branches", {"add": 1}, groups, tmp_path, num_devices=4)
    disturbance = Disturbance(tmp_path, images(12), {7: signal.SIGKILL}, seed=3)
    elastic, data = Elastic(replan=replan), disturbance.data
    report = run(plan, steps=STEPS, seed=1, elastic=elastic, checkpoint_every=4, data=data, say=disturbance)
    assert report is not None
    (restart,) = report.restarts
    assert restart.num_devices == 3
    assert "was killed by signal 9" in restart.reason
    assert report.losses == pytest.approx(undisturbed(plan, data), rel=1e-4)
    assert ranks() == {}


def test_restart_in_place_and_resume_in_another_run(tmp_path: Path) -> None:
    plan = random_plan(three_stages(tmp_path).graph, 5)
    batch = images(3 * plan.num_microbatches)
    store, disturbance = tmp_path / "checkpoints", Disturbance(tmp_path, batch, {9: signal.SIGKILL}, ahead=2)
    more: dict[str, Any] = {"seed": 1, "checkpoint": store, "data": disturbance.data}
    first = run(plan, steps=12, checkpoint_every=5, elastic=Elastic(), say=disturbance, **more)
    assert first is not None
    (restart,) = first.restarts
    assert restart.step in (5, 10)  # the signal may come after the next checkpoint
    assert restart.planning_s < 0.1
    assert sorted(p.name for p in store.iterdir()) == ["step-10", "step-12"]
    with pytest.raises(InputError, match=r"has a checkpoint of step 12: ask for more than 12 steps"):
        run(plan, steps=12, **more)
    second = run(plan, steps=STEPS, **more)
    assert second is not None
    assert (second.first_step, len(second.losses)) == (12, STEPS - 12)
    assert first.losses + second.losses == pytest.approx(undisturbed(plan, disturbance.data), rel=1e-4)


def test_gives_up(tmp_path: Path) -> None:
    plan = source_plan("chain", {}, [(0,)], tmp_path, num_devices=1)
    disturbance = Disturbance(tmp_path, vectors(8), {2: signal.SIGKILL, 4: signal.SIGKILL}, ahead=1)
    elastic, data = Elastic(max_restarts=1), disturbance.data
    with pytest.raises(ExecutionError, match=r"was killed by signal 9; gave up after 1 restarts$"):
        run(plan, steps=8, elastic=elastic, checkpoint_every=1, data=data, say=disturbance)


def test_plans_for_the_rest(tmp_path: Path) -> None:
    plan = three_stages(tmp_path)
    failure = Failure(ExecutionError("it died"), lost=(1,))
    assert plan_for_the_rest(plan, failure, fewer).cluster.num_devices == 2
    with pytest.raises(ExecutionError, match=r"^it died; no device is left$"):
        plan_for_the_rest(plan, dataclasses.replace(failure, lost=(0, 1, 2)), fewer)

    def other(plan: Plan, cluster: Cluster) -> Plan:
        return dataclasses.replace(fewer(plan, cluster), training=TrainingSetup(num_microbatches=4, optimizer="sgd"))

    with pytest.raises(InputError, match="the new plan is of another model or training set-up"):
        plan_for_the_rest(plan, failure, other)


HANGS = """
import os, time
class Hangs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.calls = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), 0
    def forward(self, x):
        return self.b(hang(torch.tanh(self.a(x)))).square().mean()
@torch.library.custom_op("drlpp_test::hang", mutates_args=())
def hang(x: torch.Tensor) -> torch.Tensor:
    global calls
    calls += 1
    if calls > 20:
        time.sleep(1000)
    return x.clone()
calls = 0
hang.register_fake(lambda x: torch.empty_like(x))
hang.register_autograd(lambda context, g: g)
def make():
    return Hangs(), (torch.randn(2, 4),)
"""


def test_a_main_thread_that_hangs_is_named(tmp_path: Path) -> None:
    """The process lives, but one of its actions does not end: the others find out."""
    file = tmp_path / "hangs.py"
    file.write_text("import torch\n" + HANGS)
    graph = capture(load_model(f"{file}:make")).graph
    marks = {op.name: 1 for op in graph.ops if "hang" in op.name}
    plan = make_plan(graph, staged(graph, marks), [(0,), (1,)], num_microbatches=2)
    said = (
        r"^rank 1 \(device 1\) hangs: it is at action 1F\d of step \d+ \(for \d+ s\); the other ranks .* rank 0 waits"
    )
    with pytest.raises(ExecutionError, match=said):
        run(plan, steps=100)


ENDS = """
import os, threading, torch
def make():
    if os.environ.get("RANK") == "1":
        threading.Timer(SECONDS, lambda: os._exit(3)).start()
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)), (torch.randn(2, 4),), torch.sum
"""


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "it left no message"),
        ("[Gloo] Rank 0 is connected to 1 peer ranks.\n", "it left no message"),
        ("out of memory\n[Gloo] Rank 0 is connected to 1 peer ranks.\n", "out of memory"),
    ],
)
def test_last_words_of_a_rank_are_not_those_of_gloo(log: str, words: str) -> None:
    assert last_words(log) == words


@pytest.mark.parametrize("seconds", [0, 4])
def test_a_rank_that_ends_by_itself_is_named(tmp_path: Path, seconds: int) -> None:
    """While the model is built, and in a step: not the connection that its neighbour finds closed."""
    file = tmp_path / "ends.py"
    file.write_text(ENDS.replace("SECONDS", str(seconds)))
    graph = capture(load_model(f"{file}:make")).graph
    plan = make_plan(graph, staged(graph, {"linear_1": 1}), [(0,), (1,)], num_microbatches=2)
    with pytest.raises(ExecutionError, match=r"^rank 1 \(device 1\) ended with status 3: it left no message$"):
        run(plan, steps=100_000)


def test_what_cannot_be_elastic(tmp_path: Path) -> None:
    plan = three_stages(tmp_path)
    with pytest.raises(InputError, match="can be neither verified"):
        run(plan, verify=True, elastic=Elastic())
    with pytest.raises(InputError, match="max_restarts is -1: it must not be negative"):
        Elastic(max_restarts=-1)
