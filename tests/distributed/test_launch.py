"""`run` starts the ranks, reports, and says in one line what went wrong; `build` serves a loop of one's own."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from drlpp.capture import capture_module
from drlpp.cluster.schema import load_cluster_file
from drlpp.errors import CaptureError, ExecutionError, InputError, PlanError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Plan, Trace, TraceEvent, save_plan
from drlpp.runtime import RunReport, build, compare, run
from drlpp.runtime.adapt.decisions import Decision
from drlpp.runtime.emulated_world import emulated_world
from drlpp.runtime.launch import training
from drlpp.runtime.launch.job import RunOptions
from drlpp.runtime.launch.user_batches import user_batches
from drlpp.runtime.launch.worker import model_of, train
from drlpp.runtime.observe.recording import Record
from drlpp.runtime.verify.reference import TrainingState
from drlpp.signals import caught
from drlpp.sim import simulate
from plan_cases import captured_model, make_plan, source_plan, staged
from processes import ranks, signal_rank
from small_models import ALL
from worker_pool import WorkerPool

HELPERS = Path(__file__).parents[1] / "helpers"


def test_run_verifies(tmp_path: Path) -> None:
    plan = source_plan("branches", {"conv2d_1": 1, "max_pool2d": 0, "add": 2}, [(0,), (3,), (0,)], tmp_path)
    lines: list[str] = []
    report = run(plan, steps=2, verify=True, track_memory=True, say=lines.append)
    assert report is not None
    assert report.verification is not None
    assert report.verification.passed, report.verification.describe()
    assert [d > 0 for d in report.peak_memory_bytes] == [True, False, False, True]
    assert lines[0] == "starting 2 processes on this machine"
    assert any(line.startswith("step 2 of 2: loss ") for line in lines)


DATA = """
import os, torch
from torch.utils.data import DataLoader, TensorDataset

def loader():  # 18 samples: the plan's step of 16, and a last batch of 2
    x = torch.arange(18.0)[:, None] * torch.ones(6) / 18
    return DataLoader(TensorDataset(x, x[:, :2].clone()), batch_size=16, shuffle=True)

def unseeded():
    g = torch.Generator().manual_seed(int(os.environ["RANK"]))
    yield torch.randn(16, 6, generator=g), torch.randn(16, 2, generator=g)

def nothing():
    return []

def number():
    return 3

def failing():
    yield from ()
    raise KeyError("x")

def other():
    yield {"y": torch.ones(16, 6)}
"""


@pytest.mark.slow
def test_run_takes_the_batches_of_the_user(tmp_path: Path) -> None:
    """Three steps over two epochs; the last batch of each is smaller."""
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path)
    (tmp_path / "data.py").write_text(DATA)
    report = run(plan, steps=3, verify=True, data=f"{tmp_path}/data.py:loader")
    assert report is not None
    assert report.verification is not None
    assert report.verification.passed, report.verification.describe()
    assert len(report.step_times_s) == 3
    assert report.step_times_s[1:] == report.iteration_times_s
    assert report.to_dict()["step_times_s"] == list(report.step_times_s)


REFUSED = {
    "nothing": "yields no batches",
    "number": "returns a int: it must yield batches",
    "failing": "raises KeyError: 'x': it must yield batches",
    "other": "the batch has input 'y', which the model does not have",
    "absent": "has no function 'absent'",
}


def refused_batches(plan: Plan, data: str) -> list[str]:
    """The error of a run on each function of a file, on each rank."""
    errors = []
    for function in REFUSED:
        try:
            train(plan, RunOptions(steps=1, data=f"{data}:{function}"), lambda line: None)
        except InputError as error:
            errors.append(str(error))
    return errors


@pytest.mark.slow
def test_batches_that_cannot_be_trained_on(pool: WorkerPool, tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(DATA)
    plan = source_plan("chain", {"linear_1": 1}, [(0, 1), (2, 3)], tmp_path)
    for errors in pool.run(refused_batches, plan, f"{tmp_path}/data.py"):
        for error, message in zip(errors, REFUSED.values(), strict=True):
            assert message in error, (error, message)
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path)
    message = "has other values on one rank than on another: every rank must be given the same batch"
    with pytest.raises(InputError, match=message):
        run(plan, steps=1, data=f"{tmp_path}/data.py:unseeded")


def test_data_that_is_no_file(tmp_path: Path) -> None:
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path)
    for data in ("absent.py:f", "text", f"{tmp_path}:f"):
        with pytest.raises(InputError, match=r"there is no file .*: write path/to/file.py:function"):
            run(plan, steps=1, data=data)
    with pytest.raises(InputError, match=r"write path/to/file.py:function"):
        next(user_batches(f"{tmp_path}/model.py:not a name", 0, 0))


@pytest.mark.slow
def test_run_emulates_a_graph_without_a_model() -> None:
    graph = chain_graph(4, forward_s=1e-3, tensor_bytes=1e6, param_bytes=1e6)
    plan = make_plan(graph, [0, 0, 1, 1], [(0,), (1, 2)], num_microbatches=3)
    report = run(plan, steps=2, emulate=True, time_scale=10.0)
    assert report is not None
    assert report.losses == ()
    assert {e.kind for e in report.trace.events} >= {"F", "send", "optimizer"} - {"optimizer"}
    lines: list[str] = []
    with pytest.raises(PlanError, match=r"was generated, which is not a model that can be built: emulate the plan"):
        run(plan, steps=1, say=lines.append)
    assert not lines, "refused before a process starts"


@pytest.mark.slow
def test_run_emulates_another_cluster(tmp_path: Path) -> None:
    """One of two devices that the plan takes for equal is half as fast, and slower still in the second step."""
    graph = chain_graph(2, forward_s=1e-3, tensor_bytes=1e6)
    plan = make_plan(graph, [0, 1], [(0,), (1,)], num_microbatches=2)
    (tmp_path / "slow.yaml").write_text(
        "schema_version: 1\nname: slow\n"
        "device_types: {fast: {speed: 1, memory: 1TB}, slow: {speed: 0.5, memory: 1TB}}\n"
        "hosts: [{name: a, devices: [fast, slow, fast, fast], link: {bandwidth: 10GB/s}}]\n"
    )
    (tmp_path / "events.yaml").write_text(
        "schema_version: 1\nevents: [{device: 1, slower: 1.5, from_step: 2, until_step: 3}]\n"
    )
    files = {"emulate_cluster": tmp_path / "slow.yaml", "emulate_events": tmp_path / "events.yaml"}
    report = run(plan, steps=3, time_scale=40.0, **files)  # type: ignore[arg-type]
    assert report is not None
    real = emulated_world(plan.cluster, load_cluster_file(tmp_path / "slow.yaml"), None).cluster
    expected_s = simulate(dataclasses.replace(plan, cluster=real)).prediction.iteration_time_s
    computes_s = sum(e.end_s - e.start_s for e in report.trace.events if e.device == 1 and e.kind in "FB")
    assert computes_s == pytest.approx(2 * (0.002 + 0.004), rel=0.2)
    assert all(
        s >= t
        for s, t in zip(report.step_times_s, [expected_s, expected_s + computes_s / 2.5, expected_s], strict=True)
    )
    with pytest.raises(InputError, match="emulate_cluster and emulate_events say how an emulated run behaves"):
        RunOptions(emulate_cluster="slow.yaml")


@pytest.mark.slow
def test_under_torchrun(tmp_path: Path) -> None:
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path)
    save_plan(plan, tmp_path / "plan.json")
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, sys\nfrom drlpp.plan import load_plan\nfrom drlpp.runtime import run\n"
        "report = run(load_plan(pathlib.Path(sys.argv[1])), steps=2, verify=True)\n"
        "sys.stdout.write('passed: none\\n' if report is None else f'passed: {report.verification.passed}\\n')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "plan.json")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = re.findall(r"passed: (\w+)", done.stdout)  # older releases of Gloo write there too
    assert sorted(said) == ["True", "none"], done.stdout


@pytest.mark.slow
def test_killed_rank_gives_one_line(tmp_path: Path) -> None:
    graph = chain_graph(4, forward_s=1e-3, tensor_bytes=1e6)
    plan = make_plan(graph, [0, 1, 2, 2], [(0,), (1,), (2,)], num_microbatches=8)

    def kill(line: str) -> None:
        if line.startswith("emulating"):
            threading.Timer(1.0, lambda: signal_rank(1, signal.SIGKILL)).start()

    began = time.monotonic()
    with pytest.raises(ExecutionError, match=r"^rank 1 \(device 1\) was killed by signal 9; the other ranks were stop"):
        run(plan, steps=200, emulate=True, time_scale=20.0, say=kill)
    assert time.monotonic() - began < 60
    assert ranks() == {}


@pytest.mark.slow
def test_model_that_changed(tmp_path: Path) -> None:
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path)
    (tmp_path / "model.py").write_text(
        f"import sys\nsys.path.insert(0, {str(HELPERS)!r})\nfrom small_models import tied as chain\n"
    )
    with pytest.raises(PlanError, match=r"the (plan|model) of '.*' has op '\w+', the (plan|model) has not: the model"):
        model_of(plan, seed=0)
    (tmp_path / "model.py").unlink()
    with pytest.raises(CaptureError, match="there is no file"):
        run(plan, steps=1)


def own_loop(name: str, plan: Plan, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """A training loop of a user, on each rank: hollow capture, initial values from a state dict, own batches."""
    module, inputs = _made(name)
    captured = captured_model(name)
    pipeline = build(captured, plan, state_dict=module.state_dict())
    optimizer = torch.optim.SGD([{"params": list(pipeline.parameters())}], lr=0.1)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        batch = {
            n: torch.cat([torch.randn_like(x) for _ in range(4)]) for n, x in zip(captured.inputs, inputs, strict=True)
        }
        losses.append(pipeline.step(batch).item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, pipeline.state_dict()


def _made(name: str) -> tuple[torch.nn.Module, tuple[Any, ...]]:
    torch.manual_seed(99)
    return ALL[name]()


def test_own_training_loop_equals_eager(pool: WorkerPool) -> None:
    """Independent of capture and executor: the plain module, trained by hand."""
    graph = captured_model("u_shape").graph
    plan = make_plan(graph, staged(graph, {"conv2d_1": 1, "cat": 2}), [(0,), (1, 2), (3,)], num_microbatches=4)
    results = pool.run(own_loop, "u_shape", plan, 3)
    module, inputs = _made("u_shape")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        parts = [torch.cat([torch.randn_like(x) for _ in range(4)]).chunk(4) for x in inputs]
        values = [module(*micro) for micro in zip(*parts, strict=True)]
        loss = torch.stack(values).mean()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    expected = TrainingState(tuple(losses), {}, dict(module.state_dict()))
    states = [TrainingState(tuple(theirs), {}, tensors) for theirs, tensors in results]
    verdict = compare(states, expected, [n for n, _ in module.named_parameters()], adaptive=False)
    assert verdict.passed, verdict.describe()
    assert set().union(*(tensors for _, tensors in results)) == set(module.state_dict())


def refused(name: str, plan: Plan) -> str:
    """The error of `build`, on each rank."""
    try:
        build(captured_model(name), plan)
    except (InputError, PlanError) as error:
        return str(error)
    return ""


def test_build_refuses_a_plan_of_another_model(pool: WorkerPool) -> None:
    graph = captured_model("tied").graph
    plan = make_plan(graph, staged(graph, {}), [(0,)], num_microbatches=2)
    assert "the model or a library changed" in pool.run(refused, "chain", plan)[0]


def no_all_reduce(name: str, plan: Plan) -> RunReport:
    """A run that forgets to sum the gradients of shared parameters: it sums something else."""
    import torch.distributed as dist

    from drlpp.runtime.transfers.reduction import GradientReducer
    from plan_cases import train_job

    original = GradientReducer._start
    GradientReducer._start = lambda self, flat, first: dist.all_reduce(  # type: ignore[method-assign]
        flat.clone(), group=self._groups[first.holders], async_op=True
    )
    try:
        return train_job(name, plan, 1)
    finally:
        GradientReducer._start = original  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("name", "marks"), [("tied", {"layer_norm": 1, "linear_1": 2}), ("chain", {"linear_1": 1, "linear_2": 2})]
)
def test_verification_finds_missing_all_reduces(pool: WorkerPool, name: str, marks: dict[str, int]) -> None:
    graph = captured_model(name).graph
    devices = [(0,), (1,), (2,)] if name == "tied" else [(0,), (1, 2), (3,)]
    plan = make_plan(graph, staged(graph, marks), devices, num_microbatches=4)
    verification = pool.run(no_all_reduce, name, plan)[0].verification
    assert not verification.passed
    assert {d.quantity: d.error > 1e-3 for d in verification.differences}["gradient"]
    assert "NOT equal" in verification.describe()


def failing_labels(name: str, plan: Plan) -> str:
    """The error of a step whose labels are out of range, on each rank."""
    module, inputs = _made(name)
    pipeline = build(capture_module(module, inputs), plan, timeout_s=6.0)
    ids, labels = inputs
    batch = [(ids, labels + 99 * (m == 1)) for m in range(plan.num_microbatches)]
    try:
        pipeline.step(batch)
    except (IndexError, ExecutionError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.slow
def test_ranks_that_wait_say_why_another_one_failed(tmp_path: Path) -> None:
    graph = captured_model("tied").graph
    plan = make_plan(graph, staged(graph, {"layer_norm": 1, "linear_1": 2}), [(0,), (1,), (2,)], num_microbatches=2)
    pool = WorkerPool(3, tmp_path)
    try:
        first, second, last = pool.run(failing_labels, "tied", plan)
    finally:
        pool.close()
    assert last.startswith("IndexError: Target")
    assert first.startswith("ExecutionError: rank 2 failed: IndexError: Target")
    assert second.startswith("ExecutionError: rank 2 failed: IndexError: Target")


@pytest.mark.slow
def test_an_interrupt_ends_a_run_at_once(tmp_path: Path) -> None:
    """As a terminal sends it, to all processes of the group; the ranks are in the middle of steps.

    Tests that a shell started in the background ignore the signal, and what they start would too: not where it is
    caught meanwhile.
    """
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path)
    save_plan(plan, tmp_path / "plan.json")
    command = [sys.executable, "-m", "drlpp", "run", str(tmp_path / "plan.json"), "--steps", "1000000"]
    with caught(lambda number: None, signals=(signal.SIGINT,)):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step 3 "):
            assert process.poll() is None
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130, rest
    assert time.monotonic() - began < 60  # of hours
    assert "Traceback" not in rest
    assert "rank" not in rest


def test_the_trace_is_of_the_median_step() -> None:
    """Of two recorded steps the first one warms up."""
    plan = make_plan(chain_graph(2, forward_s=1e-3, tensor_bytes=1e6), [0, 1], [(0,), (1,)], num_microbatches=1)

    def median_s(*seconds: float) -> float:
        records = tuple(Record(0, 0.0, (_optimizer_until(s),), (), {}, {}) for s in seconds)
        result = training._RankResult(0, [], (), records, None, 0.0)
        return training._median_trace([result], plan).iteration_time_s

    assert [median_s(5.0), median_s(5.0, 1.0), median_s(3.0, 9.0, 1.0)] == [5.0, 1.0, 3.0]


def _optimizer_until(end_s: float) -> TraceEvent:
    return TraceEvent(device=0, stream="compute", kind="optimizer", start_s=0.0, end_s=end_s)


def test_a_plan_that_was_refused_predicts_nothing() -> None:
    decisions = (
        Decision(step=4, kind="switch", text="", best_s=0.5),
        Decision(step=4, kind="refused", text=""),
        Decision(step=9, kind="switch", text="", best_s=0.7),
        Decision(step=9, kind="switched", text=""),
    )
    trace = Trace(source="measured", num_devices=1, events=(), iteration_time_s=1.0)
    report = RunReport(
        iteration_times_s=(1.0,), step_times_s=(1.0,), predicted_s=0.9, losses=(), trace=trace, decisions=decisions
    )
    told = [(p["from_step"], p["iteration_time_s"]) for p in report.to_dict()["predictions"]]
    assert told == [(0, 0.9), (9, 0.7)]
