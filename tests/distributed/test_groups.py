"""Groups of ranks that divide the ops of a stage give the result of one process, whichever splits are chosen."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from torch import nn

from drlpp.capture import capture_module
from drlpp.cluster import Cluster, cluster_to_dict
from drlpp.cost.calibration import calibrate, measurements
from drlpp.errors import InputError, PlanError
from drlpp.graph import OpGraph, Split
from drlpp.graph.generate.transformers import Transformer, transformer_graph
from drlpp.plan import Plan
from drlpp.runtime import Pipeline, build, load_checkpoint, save_checkpoint
from drlpp.runtime import pipeline as pipeline_module
from drlpp.runtime.holdings import Holdings
from drlpp.runtime.launch.job import RunOptions, RunReport
from drlpp.runtime.launch.training import train_emulated
from drlpp.runtime.stage.ways import divisible_on
from drlpp.sim import simulate
from plan_cases import captured_model, make_plan, random_grouped_plan, train_job
from small_models import ALL
from transformer_models import TRANSFORMERS
from worker_pool import WorkerPool

LAYOUTS: dict[str, Any] = {
    "PP2 x TP2": [[(0, 1)], [(2, 3)]],
    "TP4": [[(0, 1, 2, 3)]],
    "TP2 x DP2 + ZeRO-1": [[(0, 1), (2, 3)]],
    "TP2 before two replicas": [[(0, 1)], [2, 3]],
    "two replicas before TP2": [[3, 1], [(0, 2)]],
}
MICROBATCHES = 4


def halves(graph: OpGraph, parts: int) -> list[int]:
    return [i * parts // graph.num_ops for i in range(graph.num_ops)]


def plan_of(name: str, layout: str, **more: Any) -> Plan:
    graph, devices = captured_model(name).graph, LAYOUTS[layout]
    common = {"num_microbatches": MICROBATCHES, "split": 0.3, "zero1": "ZeRO" in layout, "seed": 1}
    return make_plan(graph, halves(graph, len(devices)), devices, **common | more)


def some_splits(plan: Plan) -> Mapping[str, Split]:
    """Any split of most ops: the choice changes nothing but the time."""
    rng = random.Random(f"{plan.graph.name}{plan.num_stages}")
    found = {}
    for stage in plan.stages:
        for name in stage.ops if stage.sharding.tensor > 1 else ():
            fitting = [s for s in plan.graph.ops[plan.graph.index[name]].splits if s.fits(stage.sharding.tensor)]
            if fitting and rng.random() < 0.9:
                found[name] = rng.choice(fitting)
    return found


@contextmanager
def any_splits() -> Iterator[None]:
    chosen = pipeline_module.chosen_splits
    pipeline_module.chosen_splits = some_splits  # type: ignore[assignment]
    try:
        yield
    finally:
        pipeline_module.chosen_splits = chosen


def divided_job(name: str, plan: Plan, steps: int, *more: Any) -> RunReport:
    with any_splits():
        return train_job(name, plan, steps, *more)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(TRANSFORMERS))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_splits_equal_one_process(pool: WorkerPool, name: str, layout: str) -> None:
    plan = plan_of(name, layout)
    assert len(some_splits(plan)) > 5
    verification = pool.run(divided_job, name, plan, 2)[0].verification
    assert verification.passed, verification.describe()


@pytest.mark.parametrize("layout", ["PP2 x TP2", "TP2 x DP2 + ZeRO-1"])
def test_the_planned_splits_equal_one_process(pool: WorkerPool, layout: str) -> None:
    verification = pool.run(train_job, "llama", plan_of("llama", layout, recompute=[0]), 2)[0].verification
    assert verification.passed, verification.describe()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout", "more"),
    [
        ("tied", "TP4", (False, "bf16")),
        ("dropout_attention", "PP2 x TP2", (True,)),
        ("branches", "PP2 x TP2", ()),
        ("blocks", "TP2 x DP2 + ZeRO-1", ()),
    ],
)
def test_precision_recomputation_and_random_ops(pool: WorkerPool, name: str, layout: str, more: tuple[Any]) -> None:
    verification = pool.run(divided_job, name, plan_of(name, layout, recompute=[0]), 2, *more)[0].verification
    assert verification.passed, verification.describe()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_plans_with_groups(pool: WorkerPool) -> None:
    names = sorted(ALL)
    for seed in range(2 * len(names)):
        name = names[seed % len(names)]
        plan = random_grouped_plan(captured_model(name).graph, seed, shares=0.5)
        verification = pool.run(divided_job, name, plan, 1 + seed % 2, seed % 3 == 0)[0].verification
        assert verification.passed, f"{name}, seed {seed}: {verification.describe()}"


def started(name: str, plan: Plan) -> tuple[Pipeline, torch.optim.Optimizer]:
    with any_splits():
        pipeline = build(captured_model(name), plan, seed=4)
    return pipeline, torch.optim.AdamW([{"params": list(pipeline.parameters())}], lr=0.01)


def advance(pipeline: Pipeline, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(pipeline.step().item())
        found.append(pipeline.clip_grad_norm(0.5).item())
        optimizer.step()
        optimizer.zero_grad()
    return found


State = dict[str, torch.Tensor]


def loop(name: str, first: Plan, second: Plan, folder: Path) -> tuple[list[float], float, State, State]:
    pipeline, optimizer = started(name, first)
    found = advance(pipeline, optimizer, 2)
    save_checkpoint(folder, pipeline, optimizer)
    pipeline, optimizer = started(name, second)
    with torch.no_grad():
        for parameter in pipeline.parameters():
            parameter.zero_()
    load_checkpoint(folder / "step-2", pipeline, optimizer)
    found += advance(pipeline, optimizer, 2)
    state = pipeline.state_dict(gather=True)
    pipeline.load_state_dict(state)
    loss = pipeline.evaluate().loss
    return found, 0.0 if loss is None else loss.item(), state, pipeline.state_dict()


@pytest.mark.slow
def test_checkpoints_across_degrees_clipping_and_evaluation(pool: WorkerPool, tmp_path: Path) -> None:
    graph = captured_model("tied").graph
    alone = make_plan(graph, halves(graph, 1), [(0,)], num_microbatches=MICROBATCHES)
    expected, expected_loss, whole, _ = pool.run(loop, "tied", alone, alone, tmp_path / "alone")[0]
    for i, (first, second) in enumerate([("TP4", "PP2 x TP2"), ("PP2 x TP2", "TP2 x DP2 + ZeRO-1")]):
        plans = plan_of("tied", first), plan_of("tied", second)
        ranks = pool.run(loop, "tied", *plans, tmp_path / str(i))
        together = {name: value for *_, held in ranks for name, value in held.items()}
        for found, loss, state, _ in ranks:
            assert together.keys() == state.keys()
            assert all(torch.equal(together[name], value) for name, value in state.items())
            assert found == pytest.approx(expected, rel=1e-4)
            assert loss == pytest.approx(expected_loss, rel=1e-4)
            for name, value in whole.items():
                torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4)


def test_attention_with_dropout_is_whole_on_gpus() -> None:
    """Their kernels draw numbers that no part can repeat; on CPUs members have the heads of the whole call."""
    plan, captured = plan_of("gpt2", "TP4"), captured_model("gpt2")
    splits = {op.name: op.splits[0] for op in plan.graph.ops if op.splits}
    attention = {op.name for op in plan.graph.ops if "scaled_dot_product" in op.kind}
    assert attention <= splits.keys()
    assert divisible_on(torch.device("cpu"), splits, captured, plan) == splits
    assert splits.keys() - divisible_on(torch.device("cuda"), splits, captured, plan).keys() == attention


class RowNorms(torch.optim.Optimizer):
    """Keeps the norm of each row, which a part of a matrix does not have."""

    def __init__(self, groups: list[dict[str, list[nn.Parameter]]]) -> None:
        super().__init__(groups, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            if p.grad is not None and p.dim() > 1:
                self.state[p]["norms"] = p.grad.norm(dim=0)


def save_with_row_norms(plan: Plan, folder: Path) -> str:
    with any_splits():
        pipeline = build(captured_model("tied"), plan)
    optimizer = RowNorms([{"params": list(pipeline.parameters())}])
    pipeline.step()
    optimizer.step()
    try:
        save_checkpoint(folder, pipeline, optimizer)
    except InputError as error:
        return str(error)
    return ""


def test_states_of_another_shape_are_refused(pool: WorkerPool, tmp_path: Path) -> None:
    said = pool.run(save_with_row_norms, plan_of("tied", "TP4"), tmp_path)
    assert all("an optimizer that looks at whole matrices cannot train parts of them" in line for line in said)


def with_hook(plan: Plan) -> str:
    torch.manual_seed(1)
    module, inputs = ALL["chain"]()
    module.b.weight.register_hook(lambda gradient: 2 * gradient)
    captured = capture_module(module, inputs)
    with any_splits():
        try:
            build(captured, plan)
        except PlanError as error:
            return str(error)
    return ""


def test_hooks_on_parts_are_refused(pool: WorkerPool) -> None:
    assert "the hook would see a part of the gradient" in pool.run(with_hook, plan_of("chain", "TP4"))[0]


def test_who_holds_what() -> None:
    plan = plan_of("chain", "TP2 x DP2 + ZeRO-1")
    readers = {"cut": (0,), "whole": (0,), "summed": (0,)}
    from drlpp.capture.cuts import Cut

    holdings = Holdings(plan, readers, {}, {"cut": Cut(0)}, {"summed"})
    assert holdings.sums == {"cut": ((0, 2), (1, 3)), "whole": ((0, 2), (1, 3)), "summed": ((0, 1, 2, 3),)}
    assert holdings.copies == {"cut": ((0, 2), (1, 3)), "whole": ((0, 1, 2, 3),), "summed": ((0, 1, 2, 3),)}
    assert [holdings.answering(n) for n in (*readers, "unread")] == [(0, 1), (0,), (0,), (0,)]
    assert [holdings.place(d) for d in range(4)] == [0, 1, 0, 1]
    assert np.all([holdings.changes("cut", d) for d in range(4)])


def disagreeing(plan: Plan) -> str:
    chosen = pipeline_module.chosen_splits
    pipeline_module.chosen_splits = some_splits if dist.get_rank() else chosen  # type: ignore[assignment]
    try:
        build(captured_model("tied"), plan)
    except PlanError as error:
        return str(error)
    finally:
        pipeline_module.chosen_splits = chosen
    return ""


def test_ranks_that_choose_other_splits_are_refused(pool: WorkerPool) -> None:
    said = pool.run(disagreeing, plan_of("tied", "TP4"))
    assert all("in another way than rank 0: install the same releases" in line for line in said)


def emulated(plan: Plan, files: Mapping[str, str]) -> RunReport:
    return train_emulated(plan, RunOptions(steps=3, emulate=True, time_scale=50.0, **files), lambda line: None)


@pytest.mark.slow
def test_emulated_groups_wait_as_one_device(pool: WorkerPool, tmp_path: Path) -> None:
    """On another cluster, too; the trace is that of the members, and says what devices and links are like."""
    graph = transformer_graph(Transformer(layers=2, hidden=1024, heads=8, ffn=4096, seq=512, vocab=8000))
    plan = make_plan(graph, halves(graph, 2), LAYOUTS["PP2 x TP2"], num_microbatches=MICROBATCHES, seed=1)
    report = pool.run(emulated, plan, {})[0]
    assert {event.device for event in report.trace.events} == {0, 1, 2, 3}
    assert report.iteration_times_s[-1] == pytest.approx(simulate(plan).prediction.iteration_time_s, rel=0.05)
    slow = dataclasses.replace(plan.cluster.device_types[0], speed=1 / 1.6, speed_is_given=True)
    host = plan.cluster.hosts[0]
    assert host.link is not None
    link = dataclasses.replace(host.link, bandwidth=host.link.bandwidth / 3)
    real = Cluster("real", (slow,), (dataclasses.replace(host, link=link),))
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(cluster_to_dict(real)))
    (tmp_path / "events.yaml").write_text("{schema_version: 1, events: [{device: 1, slower: 2.0, until_step: 2}]}")
    files = {"emulate_cluster": f"{tmp_path}/real.yaml", "emulate_events": f"{tmp_path}/events.yaml"}
    report = pool.run(emulated, plan, files)[0]
    assert report.step_times_s[0] > 1.2 * report.step_times_s[2]  # one member of the first group is slower
    found = calibrate([measurements(plan, [report.trace])])
    assert found.op_factor([0, 1], 0).value == pytest.approx(1.6, rel=0.1)
    assert found.wire_factor("inside", 0).value == pytest.approx(3, rel=0.2)
