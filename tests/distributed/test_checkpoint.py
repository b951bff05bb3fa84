"""A run that is saved under one plan and resumed under another equals a run that was not interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from drlpp.errors import InputError
from drlpp.plan import Plan
from drlpp.runtime import Pipeline, build, load_checkpoint, save_checkpoint
from drlpp.runtime.optimizers import optimizer_factory
from plan_cases import captured_model, make_plan, staged
from worker_pool import WorkerPool


def started(name: str, plan: Plan) -> tuple[Pipeline, torch.optim.Optimizer]:
    pipeline = build(captured_model(name), plan, seed=4)
    return pipeline, optimizer_factory(plan.training.optimizer, 0.01)(list(pipeline.parameters()))


def advance(pipeline: Pipeline, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        losses.append(pipeline.step().item())
        pipeline.clip_grad_norm(0.5)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def undisturbed(name: str, plan: Plan, folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    pipeline, optimizer = started(name, plan)
    losses = advance(pipeline, optimizer, 2)
    save_checkpoint(folder, pipeline, optimizer)
    losses += advance(pipeline, optimizer, 1)
    save_checkpoint(folder, pipeline, optimizer)
    losses += advance(pipeline, optimizer, 1)
    save_checkpoint(folder, pipeline, optimizer)
    return losses, pipeline.state_dict()


def resumed(name: str, plan: Plan, path: Path, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    pipeline, optimizer = started(name, plan)
    with torch.no_grad():
        for parameter in pipeline.parameters():
            parameter.zero_()
    load_checkpoint(path, pipeline, optimizer)
    return advance(pipeline, optimizer, steps), pipeline.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "optimizer"), [("branches", "momentum"), ("dropout_attention", "momentum"), ("tied", "adamw")]
)
def test_resume_under_another_plan(pool: WorkerPool, tmp_path: Path, name: str, optimizer: str) -> None:
    graph = captured_model(name).graph
    ops = [op.name for op in graph.ops]
    common: dict[str, Any] = {"num_microbatches": 4, "optimizer": optimizer}
    first = make_plan(graph, staged(graph, {ops[2]: 1, ops[5]: 2}), [(0,), (1, 2), (0,)], **common)
    second = make_plan(graph, staged(graph, {ops[5]: 1}), [(3,), (1,)], **common | {"seed": 5})
    expected = pool.run(undisturbed, name, first, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-3", "step-4"]
    ranks = pool.run(resumed, name, second, tmp_path / "step-3", 1)
    whole = {n: t for _, held in expected for n, t in held.items()}
    assert ranks[0][0] == pytest.approx(expected[0][0][3:], rel=1e-6)
    again = {n: t for _, held in ranks for n, t in held.items()}
    assert set(again) == set(whole)
    for key, tensor in again.items():
        assert torch.allclose(tensor, whole[key], rtol=1e-4, atol=1e-6), key
    bits = pool.run(resumed, name, second, tmp_path / "step-4", 0)
    for key, tensor in {n: t for _, held in bits for n, t in held.items()}.items():
        assert torch.equal(tensor, whole[key]), key


def refused(name: str, plan: Plan, path: Path) -> str:
    try:
        load_checkpoint(path, *started(name, plan))
    except InputError as error:
        return str(error)
    return ""


def saved(name: str, plan: Plan, folder: Path) -> None:
    save_checkpoint(folder, *started(name, plan))


def test_what_is_no_checkpoint_of_the_model(pool: WorkerPool, tmp_path: Path) -> None:
    graph = captured_model("chain").graph
    plan = make_plan(graph, staged(graph, {}), [(0,)], num_microbatches=2, optimizer="sgd")
    assert "is not a checkpoint: give a folder step-N" in pool.run(refused, "chain", plan, tmp_path)[0]
    pool.run(saved, "chain", plan, tmp_path)
    other = captured_model("tied").graph
    plan = make_plan(other, staged(other, {}), [(0,)], num_microbatches=2)
    assert "it is of another model" in pool.run(refused, "tied", plan, tmp_path / "step-0")[0]
